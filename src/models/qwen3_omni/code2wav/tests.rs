//! What a window gets does not depend on what is left out or on what else is decoded.

use std::path::Path;

use super::{Code2Wav, CodecWindow};
use crate::models::qwen3_omni::OmniConfig;
use crate::tensor::cpu::{Cpu, Isa};
use crate::tensor::{Dtype, WeightStore};

fn vocoder(isa: Isa) -> Code2Wav<Cpu> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let config = OmniConfig::read(&demo).unwrap().code2wav.unwrap();
    let cpu = Cpu::with_isa(isa, None).unwrap();
    Code2Wav::load(&cpu, &config, &WeightStore::open(&demo).unwrap(), Dtype::Auto).unwrap()
}

/// Codes without a pattern.
fn codes(vocoder: &Code2Wav<Cpu>, frames: usize, seed: u32) -> Vec<u32> {
    let config = vocoder.config();
    let code = |at: u32| at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8;
    (0..(frames * config.num_quantizers) as u32).map(|at| code(at) % config.codebook_size as u32).collect()
}

#[test]
fn what_is_left_out_does_not_change_a_bit_of_what_is_kept() {
    for isa in Isa::available() {
        let vocoder = vocoder(isa);
        let mut space = vocoder.new_workspace(20).unwrap();
        let codes = codes(&vocoder, 20, 1);
        let mut decode = |keep_from| {
            vocoder.forward(&[CodecWindow { codes: &codes, keep_from }], &mut space, None).unwrap();
            space.samples().unwrap()[0].to_vec()
        };
        let whole = decode(0);
        for keep_from in [1, 1365, 1920 * 7 - 555, 1920 * 12 + 77, whole.len() - 1, whole.len()] {
            assert_eq!(decode(keep_from), whole[keep_from..], "{isa} from {keep_from}");
        }
    }
}

#[test]
fn a_window_alone_gives_the_bits_that_it_gives_in_a_batch() {
    for isa in Isa::available() {
        let vocoder = vocoder(isa);
        let mut space = vocoder.new_workspace(32).unwrap();
        let (first, second, third) = (codes(&vocoder, 4, 1), codes(&vocoder, 17, 2), codes(&vocoder, 9, 3));
        let windows = [
            CodecWindow { codes: &first, keep_from: 0 },
            CodecWindow { codes: &second, keep_from: 8 * 1920 - 555 },
            CodecWindow { codes: &third, keep_from: 100 },
        ];
        vocoder.forward(&windows, &mut space, None).unwrap();
        let together: Vec<Vec<f32>> = space.samples().unwrap().into_iter().map(<[f32]>::to_vec).collect();
        for (window, together) in windows.iter().zip(&together) {
            vocoder.forward(&[*window], &mut space, None).unwrap();
            assert_eq!(space.samples().unwrap()[0], together, "{isa}");
        }
    }
}

#[test]
fn codes_that_do_not_fit_are_refused_by_name() {
    let vocoder = vocoder(Isa::Plain);
    let mut space = vocoder.new_workspace(2).unwrap();
    let mut fails = |codes: &[u32]| {
        vocoder.forward(&[CodecWindow { codes, keep_from: 0 }], &mut space, None).unwrap_err().to_string()
    };
    let frame = codes(&vocoder, 1, 1);
    assert!(fails(&frame[1..]).contains("not frames"), "a frame that is not whole");
    let wrong = vec![vocoder.config().codebook_size as u32; frame.len()];
    assert!(fails(&wrong).contains("a codebook has"), "a code that is not there");
    assert!(fails(&frame.repeat(3)).contains("are needed"), "more frames than there is room for");
}
