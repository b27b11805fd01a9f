//! What came out of a measurement, as JSON and as a table.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

use super::figures::{Summary, mean_overlap};
use super::request::Timeline;
use super::{Measured, Schedule, Workload};
use crate::cli::ServeArgs;
use crate::models::qwen3::DecodeTraffic;
use crate::stages::{Modality, Pipeline, StageSpec};
use crate::transport::PayloadKind;

/// What came out. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `latency` or `throughput`.
    pub benchmark: &'static str,
    /// The served name.
    pub model: String,
    /// The pipeline that serves it.
    pub pipeline: String,
    /// `text` or `audio`, which is text and speech.
    pub modalities: &'static str,
    /// Tokens of each prompt.
    pub input_len: usize,
    /// Tokens of each answer.
    pub output_len: u32,
    /// Codec frames of each answer; 0 where nothing is spoken.
    pub codec_frames: u32,
    /// Requests that were at work at the same time, at most.
    pub concurrency: usize,
    /// The temperature at which tokens were drawn.
    pub temperature: f32,
    /// The seed of the prompts and, if they were made up, of the weights.
    pub seed: u64,
    /// Requests that were measured.
    pub requests: usize,
    /// Seconds that they took together.
    pub seconds: f64,
    /// Requests per second.
    pub requests_per_second: f64,
    /// What each stage did.
    pub stages: Vec<StageReport>,
    /// How long a batch took, where requests came in batches.
    pub batch_seconds: Option<Summary>,
    /// From a request to its first token.
    pub time_to_first_token: Option<Summary>,
    /// From a request to the first sound.
    pub time_to_first_audio: Option<Summary>,
    /// From a token of an answer to the next.
    pub inter_token_latency: Option<Summary>,
    /// From a request to the end of its answer.
    pub end_to_end_latency: Option<Summary>,
    /// The end-to-end latency over the length of the sound: below 1 it is made faster than it is heard.
    pub real_time_factor: Option<Summary>,
    /// How near decode came to what the memory allows; `None` for answers of one token.
    pub decode: Option<DecodeReport>,
}

/// What a stage did, in all and per second. Fields are there if they are of its kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StageReport {
    /// Its place in the pipeline.
    pub stage: usize,
    /// What it is called.
    pub name: String,
    /// The device that it runs on.
    pub device: String,
    /// Its replicas.
    pub replicas: u16,
    /// Tokens of prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_tokens: Option<Rate>,
    /// Tokens generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decode_tokens: Option<Rate>,
    /// Codec frames spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec_frames: Option<Rate>,
    /// Seconds of sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_seconds: Option<Rate>,
}

/// How much of something there was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// In all.
    pub total: f64,
    /// Per second of the measurement.
    pub per_second: f64,
}

/// A decode step of the language model beside what the memory of its device allows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DecodeReport {
    /// Sequences that decoded at the same time, on average while any did, over the replicas.
    pub sequences: f64,
    /// Tokens that a decoded token sees, on average.
    pub context: f64,
    /// Seconds of a step: the median from a token of an answer to the next.
    pub step_seconds: f64,
    /// Bytes that a step must read: weights, of experts as many as are chosen on average, and keys and values.
    pub bytes_per_step: f64,
    /// Bytes per second that this makes.
    pub bytes_per_second: f64,
    /// Bytes per second that the device reads at best, measured behind the requests.
    pub read_bandwidth: f64,
    /// The share of that.
    pub bandwidth_share: f64,
}

impl Report {
    /// Sums a measurement up.
    pub(super) fn new(
        names: &[String],
        pipeline: &Pipeline,
        (args, workload, schedule): (&ServeArgs, &Workload, Schedule),
        measured: &Measured,
    ) -> Self {
        let requests = &measured.requests;
        let seconds: f64 = measured.iterations.iter().sum();
        let summary = |of: fn(&Timeline) -> Option<f64>| Summary::of(requests.iter().filter_map(of));
        let batches = matches!(schedule, Schedule::Batches { .. });
        let totals = Totals {
            requests: requests.len() as f64,
            audio_seconds: requests.iter().map(|request| request.audio_seconds).sum(),
            seconds,
        };
        let stages = pipeline.stages.iter().enumerate();
        Self {
            benchmark: if batches { "latency" } else { "throughput" },
            model: names.first().cloned().unwrap_or_default(),
            pipeline: pipeline.name.clone(),
            modalities: if workload.spoken { "audio" } else { "text" },
            input_len: workload.input_len,
            output_len: workload.output_len,
            codec_frames: workload.frames(),
            concurrency: schedule.concurrency().1,
            temperature: workload.temperature,
            seed: args.seed,
            requests: requests.len(),
            seconds,
            requests_per_second: totals.requests / seconds,
            stages: stages.map(|stage| totals.of_stage(stage, workload)).collect(),
            batch_seconds: batches.then(|| Summary::of(measured.iterations.iter().copied())).flatten(),
            time_to_first_token: summary(Timeline::to_first_token),
            time_to_first_audio: summary(Timeline::to_first_audio),
            inter_token_latency: Summary::of(requests.iter().flat_map(Timeline::between_tokens)),
            end_to_end_latency: summary(|request| Some(request.end_to_end())),
            real_time_factor: summary(|request| {
                (request.audio_seconds > 0.0).then(|| request.end_to_end() / request.audio_seconds)
            }),
            decode: None,
        }
    }

    /// The same with how near decode came to what the memory allows.
    pub(super) fn with_decode(
        mut self,
        requests: &[Timeline],
        traffic: &DecodeTraffic,
        read_bandwidth: f64,
    ) -> Self {
        let sequences = mean_overlap(requests.iter().filter_map(Timeline::decoding));
        let replicas = self.stages.first().map_or(1, |stage| stage.replicas.max(1));
        self.decode = sequences.zip(self.inter_token_latency).map(|(sequences, latency)| {
            // The second token sees the prompt and the first one, the last all tokens but itself.
            let context = self.input_len as f64 + f64::from(self.output_len) / 2.0;
            let each = sequences / f64::from(replicas);
            let bytes_per_step = traffic.bytes(each, context);
            let step_seconds = latency.median;
            let bytes_per_second = bytes_per_step * f64::from(replicas) / step_seconds;
            let bandwidth_share = bytes_per_second / read_bandwidth;
            DecodeReport {
                sequences,
                context,
                step_seconds,
                bytes_per_step,
                bytes_per_second,
                read_bandwidth,
                bandwidth_share,
            }
        });
        self
    }

    /// Writes it as a table for people.
    pub fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        let mut row = |name: &str, value: &dyn Display| writeln!(out, "{name:22}{value}");
        row("model", &format!("{} ({})", self.model, self.pipeline))?;
        let frames = if self.codec_frames > 0 {
            format!(", {} codec frames", self.codec_frames)
        } else {
            String::new()
        };
        let (input, output) = (self.input_len, self.output_len);
        row("a request", &format!("{input} tokens of prompt, {output} of answer{frames}"))?;
        let (requests, concurrency) = (self.requests, self.concurrency);
        row("requests", &format!("{requests}, {concurrency} at a time, in {:.3} s", self.seconds))?;
        row("requests/s", &format!("{:.3}", self.requests_per_second))?;
        writeln!(out)?;
        for stage in &self.stages {
            stage.write_line(out)?;
        }
        writeln!(out, "\n{:22}{:>12}{:>12}{:>12}", "", "mean", "median", "p99")?;
        for (name, summary, unit) in [
            ("batch", self.batch_seconds, Unit::Milliseconds),
            ("time to first token", self.time_to_first_token, Unit::Milliseconds),
            ("time to first audio", self.time_to_first_audio, Unit::Milliseconds),
            ("inter-token latency", self.inter_token_latency, Unit::Milliseconds),
            ("end-to-end latency", self.end_to_end_latency, Unit::Milliseconds),
            ("real-time factor", self.real_time_factor, Unit::Factor),
        ] {
            let Some(Summary { mean, median, p99 }) = summary else { continue };
            let [mean, median, p99] = [mean, median, p99].map(|value| unit.show(value));
            writeln!(out, "{name:22}{mean:>12}{median:>12}{p99:>12}")?;
        }
        self.decode.map_or(Ok(()), |decode| decode.write_lines(out))
    }
}

/// How a figure is written.
#[derive(Clone, Copy)]
enum Unit {
    Milliseconds,
    Factor,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds => format!("{:.2} ms", value * 1e3),
            Self::Factor => format!("{value:.3}"),
        }
    }
}

/// What all requests took and made.
struct Totals {
    requests: f64,
    audio_seconds: f64,
    seconds: f64,
}

impl Totals {
    /// What a stage did of it.
    fn of_stage(&self, (stage, spec): (usize, &StageSpec), workload: &Workload) -> StageReport {
        let rate = |total: f64| Some(Rate { total, per_second: total / self.seconds });
        let mut report = StageReport {
            stage,
            name: spec.name.clone(),
            device: spec.device.clone(),
            replicas: spec.replicas,
            ..StageReport::default()
        };
        if stage == 0 {
            report.prefill_tokens = rate(self.requests * workload.input_len as f64);
            report.decode_tokens = rate(self.requests * f64::from(workload.output_len));
        } else if workload.spoken && spec.sends == Some(PayloadKind::Codes) {
            report.codec_frames = rate(self.requests * f64::from(workload.frames()));
        } else if workload.spoken && spec.output == Some(Modality::Audio) {
            report.audio_seconds = rate(self.audio_seconds);
        }
        report
    }
}

impl StageReport {
    fn write_line(&self, out: &mut impl Write) -> io::Result<()> {
        let did: Vec<String> = [
            (self.prefill_tokens, "prefill tokens/s"),
            (self.decode_tokens, "decode tokens/s"),
            (self.codec_frames, "codec frames/s"),
            (self.audio_seconds, "audio seconds/s"),
        ]
        .into_iter()
        .filter_map(|(rate, unit)| Some(format!("{:.2} {unit}", rate?.per_second)))
        .collect();
        let did = if did.is_empty() { "not asked".to_owned() } else { did.join(", ") };
        writeln!(out, "{:22}{did}; {} replica(s) on {}", self.name, self.replicas, self.device)
    }
}

impl DecodeReport {
    fn write_lines(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { sequences, context, step_seconds, bytes_per_step, .. } = self;
        writeln!(
            out,
            "\ndecode steps          {sequences:.1} sequences of {context:.0} tokens: {:.2} MB in {:.2} ms",
            bytes_per_step / 1e6,
            step_seconds * 1e3
        )?;
        let gigabytes = [self.bytes_per_second, self.read_bandwidth].map(|bytes| bytes / 1e9);
        let [reached, possible] = gigabytes;
        let share = self.bandwidth_share * 100.0;
        writeln!(
            out,
            "memory bandwidth      {reached:.2} of {possible:.2} GB/s that the device reads: {share:.1} %"
        )
    }
}
