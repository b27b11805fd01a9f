//! The case `code2wav`: inside, whole, chunked and streamed.

use std::path::Path;

use omni_actors::models::qwen3_omni::code2wav::{
    Code2WavPoint, Code2WavWorkspace, CodecStream, StreamingSchedule,
};
use omni_actors::models::qwen3_omni::{Code2Wav, CodecWindow, OmniConfig};
use omni_actors::tensor::{Convolution, Dtype, InputRows, WeightStore};

use super::golden::Golden;
use super::{Bound, Comparison, HIDDEN, WAVE};

/// The vocoder of a set with memory for `max_frames` frames; none where the set has no vocoder.
pub(crate) fn load<B: Convolution + InputRows>(
    backend: &B,
    set: &Path,
    max_frames: usize,
) -> Option<(Code2Wav<B>, Code2WavWorkspace<B>)> {
    let checkpoint = set.join("checkpoint");
    let config = OmniConfig::read(&checkpoint).expect("a configuration").code2wav?;
    let store = WeightStore::open(&checkpoint).expect("weights");
    let vocoder = Code2Wav::load(backend, &config, &store, Dtype::Float32).expect("a vocoder");
    let space = vocoder.new_workspace(max_frames).expect("memory");
    Some((vocoder, space))
}

/// The kept samples of one window.
pub(crate) fn decode<B: Convolution + InputRows>(
    (vocoder, space): &mut (Code2Wav<B>, Code2WavWorkspace<B>),
    codes: &[u32],
    keep_from: usize,
) -> Vec<f32> {
    vocoder.forward(&[CodecWindow { codes, keep_from }], space, None).expect("a forward pass");
    space.samples().expect("samples")[0].to_vec()
}

/// The samples of a stream cut by a schedule.
pub(crate) fn stream<B: Convolution + InputRows>(
    model: &mut (Code2Wav<B>, Code2WavWorkspace<B>),
    codes: &[u32],
    schedule: StreamingSchedule,
) -> (Vec<f32>, Vec<usize>) {
    let quantizers = model.0.config().num_quantizers;
    let mut windows = CodecStream::new(model.0.config(), schedule);
    let (mut samples, mut lengths) = (Vec::new(), Vec::new());
    while let Some(window) = windows.next_window(codes.len() / quantizers, true) {
        let own = &codes[window.frames.start * quantizers..window.frames.end * quantizers];
        let kept = decode(model, own, window.keep.start);
        lengths.push(kept.len());
        samples.extend(kept);
    }
    (samples, lengths)
}

/// All comparisons of the case; empty where the checkpoint has no vocoder.
pub(crate) fn compare<B: Convolution + InputRows>(backend: &B, set: &Path) -> Vec<Comparison> {
    const CASE: &str = "code2wav";
    let golden = Golden::read(set, CASE).expect("a golden file");
    let frames = golden.shape("codes")[1];
    let Some(mut model) = load(backend, set, frames) else { return Vec::new() };
    let codes: Vec<u32> = golden.transposed("codes").into_iter().map(|code| code as u32).collect();
    let quantizers = model.0.config().num_quantizers;
    let mut found = Vec::new();
    let mut compare = |tensor: &str, ours: &[f32], golden: &[f32], bound: Bound| {
        found.push(Comparison::numbers(CASE, tensor, ours, golden, bound));
    };

    let mut seen = Vec::new();
    let mut observer = |point, rows: &[f32]| seen.push((point, rows.to_vec()));
    let whole = [CodecWindow { codes: &codes, keep_from: 0 }];
    model.0.forward(&whole, &mut model.1, Some(&mut observer)).expect("a forward pass");
    for (point, ours) in &seen {
        let (tensor, expected) = match point {
            Code2WavPoint::Embeddings => ("embed_mean", golden.numbers("embed_mean")),
            Code2WavPoint::PreTransformer => ("pre_transformer_out", golden.numbers("pre_transformer_out")),
            Code2WavPoint::Upsampled => ("upsample_out", golden.transposed("upsample_out")),
            Code2WavPoint::Decoder(0) => ("decoder0_out", golden.transposed("decoder0_out")),
            Code2WavPoint::Decoder(1) => ("decoder1_out", golden.transposed("decoder1_out")),
            Code2WavPoint::Decoder(_) => continue,
        };
        compare(tensor, ours, &expected, HIDDEN);
    }
    let whole = model.1.samples().expect("samples")[0].to_vec();
    compare("wav_whole", &whole, &golden.numbers("wav_whole"), WAVE);

    for tensor in golden.names().expect("names") {
        let numbers = |prefixes: &[&str]| numbers_in(&tensor, prefixes);
        if let Some([chunk, context]) = numbers(&["wav_chunked_", "_"]).as_deref() {
            let mut samples = Vec::new();
            for start in (0..frames).step_by(*chunk) {
                let end = (start + chunk).min(frames);
                let context = if start > *context { *context } else { start };
                let own = &codes[(start - context) * quantizers..end * quantizers];
                let keep_from = context * model.0.config().samples_per_frame();
                samples.extend(decode(&mut model, own, keep_from));
            }
            compare(&tensor, &samples, &golden.numbers(&tensor), WAVE);
        }
        if let Some([initial, chunk, context]) = numbers(&["wav_stream_i", "_c", "_l"]).as_deref() {
            let schedule = StreamingSchedule {
                initial_frames: *initial,
                chunk_frames: *chunk,
                left_context_frames: *context,
            };
            let (samples, lengths) = stream(&mut model, &codes, schedule);
            compare(&tensor, &samples, &golden.numbers(&tensor), WAVE);
            let tensor = format!("{}_lens", tensor.trim_start_matches("wav_"));
            let lengths: Vec<f32> = lengths.iter().map(|length| *length as f32).collect();
            compare(&tensor, &lengths, &golden.numbers(&tensor), Bound::Exact);
        }
    }
    found
}

/// The numbers in a name that is made of the given parts with a number after each.
fn numbers_in(name: &str, parts: &[&str]) -> Option<Vec<usize>> {
    let mut rest = name;
    let mut numbers = Vec::new();
    for part in parts {
        rest = rest.strip_prefix(part)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        numbers.push(rest[..digits].parse().ok()?);
        rest = &rest[digits..];
    }
    rest.is_empty().then_some(numbers)
}
