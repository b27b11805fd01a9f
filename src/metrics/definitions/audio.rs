//! Families of stages that make audio: what became of spoken answers, as they were delivered to clients.
//!
//! They exist where the pipeline has such a stage. Time to the first packet, underrun and continuity tell of streamed
//! answers only: a whole answer has no packets and plays without a pause.

use super::labels::{Label, MODEL_NAME, REPLICA, SKIPPED_REASON, STAGE, THRESHOLD_MS};
use super::{Definition, Kind, Namespace, Unit, buckets};

const AUDIO: &[Label] = &[MODEL_NAME, STAGE, REPLICA];

/// The longest underrun of an answer that counts as continuous, in seconds; `100` in [`THRESHOLD_MS`].
pub const CONTINUITY_THRESHOLD_SECONDS: f64 = 0.1;

/// `audio_ttfp_s`
pub const TIME_TO_FIRST_PACKET: Definition = Definition {
    suffix: "audio_ttfp_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds from the arrival of a request at the HTTP layer to its first audio packet.",
    unit: Unit::Seconds,
    labels: AUDIO,
    moves: "a streamed spoken answer is complete",
};

/// `audio_duration_s`
pub const DURATION: Definition = Definition {
    suffix: "audio_duration_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds that the audio of an answer plays.",
    unit: Unit::Seconds,
    labels: AUDIO,
    moves: "a spoken answer is complete",
};

/// `audio_rtf`
pub const REAL_TIME_FACTOR: Definition = Definition {
    suffix: "audio_rtf",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::REAL_TIME_FACTOR),
    help: "Seconds from the arrival of a request at the HTTP layer to its last audio packet, over the seconds that the audio plays.",
    unit: Unit::Ratio,
    labels: AUDIO,
    moves: "a spoken answer is complete",
};

/// `audio_stage_rtf`
pub const STAGE_REAL_TIME_FACTOR: Definition = Definition {
    suffix: "audio_stage_rtf",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::REAL_TIME_FACTOR),
    help: "Seconds from the first step of the stage that works on a request to the last, over the seconds that its audio plays.",
    unit: Unit::Ratio,
    labels: AUDIO,
    moves: "a stage that makes audio is done with a request by itself",
};

/// `audio_frames_total`
pub const FRAMES: Definition = Definition {
    suffix: "audio_frames_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Audio samples delivered, per channel.",
    unit: Unit::Samples,
    labels: AUDIO,
    moves: "a spoken answer is complete",
};

/// `audio_underrun_s`
pub const UNDERRUN: Definition = Definition {
    suffix: "audio_underrun_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::FAST),
    help: "Seconds by which the latest packet of an answer missed its time in a player that starts with the first packet and never pauses.",
    unit: Unit::Seconds,
    labels: AUDIO,
    moves: "a streamed spoken answer is complete",
};

/// `audio_continuity_ok_total`
pub const CONTINUITY_OK: Definition = Definition {
    suffix: "audio_continuity_ok_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Streamed spoken answers whose underrun was within the threshold.",
    unit: Unit::Requests,
    labels: &[MODEL_NAME, STAGE, REPLICA, THRESHOLD_MS],
    moves: "a streamed spoken answer is complete and its underrun was within the threshold",
};

/// `audio_skipped_requests_total`
pub const SKIPPED: Definition = Definition {
    suffix: "audio_skipped_requests_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Requests for audio that were answered without any, by reason.",
    unit: Unit::Requests,
    labels: &[MODEL_NAME, STAGE, REPLICA, SKIPPED_REASON],
    moves: "an answer for which audio was asked is complete and there was nothing to be spoken",
};

/// Every family of audio, in the order of `/metrics`.
pub const ALL: &[&Definition] = &[
    &TIME_TO_FIRST_PACKET,
    &DURATION,
    &REAL_TIME_FACTOR,
    &STAGE_REAL_TIME_FACTOR,
    &FRAMES,
    &UNDERRUN,
    &CONTINUITY_OK,
    &SKIPPED,
];
