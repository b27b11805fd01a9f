//! What is told to the metrics of a spoken answer: when its packets came, and how it would have played.

use std::time::Instant;

use crate::actors::messages::OmniRequest;
use crate::http::state::AppState;
use crate::ids::{RequestId, StageId};
use crate::metrics::{Arrival, DeliveredAudio, PipelineEvent, Playback, StatEvent, StatsSender, continuity};
use crate::stages::{AudioPacket, Modality};

/// How an answer goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// In one piece, when it is complete.
    Whole,
    /// As it is made.
    Streamed,
}

/// Keeps account of one spoken answer.
#[derive(Debug)]
pub struct SpeechAccount {
    /// Where the account goes.
    statistics: StatsSender,
    /// The stage that speaks.
    stage: StageId,
    /// When the request reached the HTTP layer; times count from here.
    arrived: Instant,
    /// How the client gets the answer; only what is streamed can run dry.
    delivery: Delivery,
    /// Samples per second and channel, of the last packet; 0 before the first.
    sample_rate: u32,
    /// When packets that were not empty came to the client's connection, and their samples per channel.
    packets: Vec<Arrival>,
}

impl SpeechAccount {
    /// An account of a request; `None` when it asks for no speech, or nobody keeps statistics.
    pub fn open(state: &AppState, request: &OmniRequest, delivery: Delivery) -> Option<Self> {
        if !state.statistics.is_on() || !request.modalities.contains(&Modality::Audio) {
            return None;
        }
        Some(Self {
            statistics: state.statistics.clone(),
            stage: state.pipeline.audio_stage()?,
            arrived: request.arrived,
            delivery,
            sample_rate: 0,
            packets: Vec::new(),
        })
    }

    /// A packet came.
    pub fn packet(&mut self, packet: &AudioPacket) {
        if packet.samples.is_empty() {
            return;
        }
        self.sample_rate = packet.sample_rate;
        self.packets.push(Arrival { seconds: self.arrived.elapsed().as_secs_f64(), size: packet.frames() });
    }

    /// The request ended by itself.
    pub fn close(self, request: RequestId) {
        let audio = self.delivered();
        self.statistics.send(|| StatEvent::Pipeline(PipelineEvent::AudioDelivered { request, audio }));
    }

    fn delivered(&self) -> DeliveredAudio {
        let played = continuity(&self.packets, f64::from(self.sample_rate));
        let playback = self.packets.first().filter(|_| self.delivery == Delivery::Streamed);
        DeliveredAudio {
            stage: self.stage,
            frames: self.packets.iter().map(|packet| packet.size).sum(),
            sample_rate: self.sample_rate,
            e2e_seconds: match self.packets.last() {
                Some(last) => last.seconds,
                None => self.arrived.elapsed().as_secs_f64(),
            },
            playback: playback.map(|first| Playback {
                first_packet_seconds: first.seconds,
                underrun_seconds: played.underrun_seconds,
            }),
        }
    }
}
