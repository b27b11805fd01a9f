//! Handles to the families of audio, and the series of one replica that makes it.

use prometheus::{Counter, Histogram};

use super::steps::observe_measured;
use crate::metrics::definitions::{audio, labels};
use crate::metrics::families::{Catalogue, Family, ReplicaLabels};
use crate::metrics::{DeliveredAudio, MetricsError, Playback, StageTimes};

/// The families of stages that make audio.
#[derive(Debug)]
pub struct AudioFamilies {
    /// Seconds from arrival to the first packet.
    time_to_first_packet: Family<Histogram>,
    /// Seconds that an answer plays.
    duration: Family<Histogram>,
    /// Seconds from arrival to the last packet over the duration.
    real_time_factor: Family<Histogram>,
    /// Seconds that the stage worked over the duration.
    stage_real_time_factor: Family<Histogram>,
    /// Samples delivered.
    frames: Family<Counter>,
    /// The longest time that a player would have run dry.
    underrun: Family<Histogram>,
    /// Answers without a pause that would be heard.
    continuity_ok: Family<Counter>,
    /// Answers without audio for which it was asked.
    skipped: Family<Counter>,
}

/// The series of one replica. They stay when it is gone and go on when its id is used again.
#[derive(Debug)]
pub struct AudioSeries {
    /// Seconds from arrival to the first packet.
    time_to_first_packet: Histogram,
    /// Seconds that an answer plays.
    duration: Histogram,
    /// Seconds from arrival to the last packet over the duration.
    real_time_factor: Histogram,
    /// Seconds that the stage worked over the duration.
    stage_real_time_factor: Histogram,
    /// Samples delivered.
    frames: Counter,
    /// The longest time that a player would have run dry.
    underrun: Histogram,
    /// Answers whose underrun was within the threshold.
    continuity_ok: Counter,
    /// Answers in which there was nothing to be spoken.
    skipped_without_data: Counter,
}

impl AudioFamilies {
    /// Registers the families of [`audio::ALL`].
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        Ok(Self {
            time_to_first_packet: catalogue.register(&audio::TIME_TO_FIRST_PACKET)?,
            duration: catalogue.register(&audio::DURATION)?,
            real_time_factor: catalogue.register(&audio::REAL_TIME_FACTOR)?,
            stage_real_time_factor: catalogue.register(&audio::STAGE_REAL_TIME_FACTOR)?,
            frames: catalogue.register(&audio::FRAMES)?,
            underrun: catalogue.register(&audio::UNDERRUN)?,
            continuity_ok: catalogue.register(&audio::CONTINUITY_OK)?,
            skipped: catalogue.register(&audio::SKIPPED)?,
        })
    }

    /// The series of a replica, at zero if it had none.
    pub fn series(&self, replica: &ReplicaLabels) -> Result<AudioSeries, MetricsError> {
        let within_threshold = replica.and(labels::CONTINUITY_THRESHOLD_MS);
        let without_data = replica.and(labels::SKIPPED_NO_AUDIO_DATA);
        Ok(AudioSeries {
            time_to_first_packet: self.time_to_first_packet.series(&replica.values())?,
            duration: self.duration.series(&replica.values())?,
            real_time_factor: self.real_time_factor.series(&replica.values())?,
            stage_real_time_factor: self.stage_real_time_factor.series(&replica.values())?,
            frames: self.frames.series(&replica.values())?,
            underrun: self.underrun.series(&replica.values())?,
            continuity_ok: self.continuity_ok.series(&within_threshold)?,
            skipped_without_data: self.skipped.series(&without_data)?,
        })
    }
}

impl AudioSeries {
    /// Takes in a request that the stage is done with.
    pub fn observe_stage(&self, times: &StageTimes) {
        if times.audio_seconds > 0.0 {
            observe_measured(&self.stage_real_time_factor, times.work_seconds / times.audio_seconds);
        }
    }

    /// Takes in what a request got. Audio that holds samples must have a rate other than 0.
    pub fn observe(&self, delivered: &DeliveredAudio) {
        let DeliveredAudio { stage: _, frames, sample_rate, e2e_seconds, playback } = *delivered;
        if frames == 0 {
            self.skipped_without_data.inc();
            return;
        }
        let duration = frames as f64 / f64::from(sample_rate);
        self.frames.inc_by(frames as f64);
        observe_measured(&self.duration, duration);
        observe_measured(&self.real_time_factor, e2e_seconds / duration);
        if let Some(Playback { first_packet_seconds, underrun_seconds }) = playback {
            observe_measured(&self.time_to_first_packet, first_packet_seconds);
            observe_measured(&self.underrun, underrun_seconds);
            if underrun_seconds <= audio::CONTINUITY_THRESHOLD_SECONDS {
                self.continuity_ok.inc();
            }
        }
    }
}
