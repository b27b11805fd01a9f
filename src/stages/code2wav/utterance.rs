//! What the vocoder holds of a request.

use std::time::{Duration, Instant};

use crate::models::qwen3_omni::{CodecStream, Demand, StreamWindow};

/// How long the first sound may be in the making before it is as urgent as that of a listener who is about to hear a gap.
const FIRST_SOUND_PATIENCE: Duration = Duration::from_millis(100);

/// How long an answer that nobody hears while it is made lets those go first that somebody listens to.
const UNHEARD_PATIENCE: Duration = Duration::from_secs(30);

/// An utterance on its way from frames to sound.
pub(super) struct Utterance {
    /// Codes from frame `first_frame` on, `[frames, quantizers]`.
    codes: Vec<u32>,
    /// The frame that `codes` begin with; earlier ones are needed no more.
    first_frame: usize,
    /// What has been decoded.
    stream: CodecStream,
    /// Somebody listens while it is made.
    streamed: bool,
    /// All frames are there.
    complete: bool,
    /// The first window has been planned.
    started: bool,
    /// When its first frame came.
    spoken_from: Option<Instant>,
    /// When its first sound was given out; a listener hears it from then on.
    heard_from: Option<Instant>,
    /// Samples given out.
    samples: usize,
    /// Codes that have come.
    codes_taken: u64,
}

impl Utterance {
    /// Without frames yet.
    pub(super) fn new(stream: CodecStream, streamed: bool) -> Self {
        Self {
            codes: Vec::new(),
            first_frame: 0,
            stream,
            streamed,
            complete: false,
            started: false,
            spoken_from: None,
            heard_from: None,
            samples: 0,
            codes_taken: 0,
        }
    }

    /// Takes the codes of further frames.
    pub(super) fn push(&mut self, codes: Vec<u32>, now: Instant) {
        self.spoken_from.get_or_insert(now);
        self.codes_taken += codes.len() as u64;
        self.codes.extend(codes);
    }

    /// Codes that have come, over all frames.
    pub(super) fn codes_taken(&self) -> u64 {
        self.codes_taken
    }

    /// No more frames will come.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// All frames are there and decoded.
    pub(super) fn is_decoded(&self, quantizers: usize) -> bool {
        self.complete && self.window(quantizers, Demand::default()).is_none()
    }

    /// Frames whose codes are held.
    pub(super) fn frames_held(&self, quantizers: usize) -> usize {
        self.codes.len() / quantizers.max(1)
    }

    /// What can be decoded next.
    pub(super) fn window(&self, quantizers: usize, demand: Demand) -> Option<StreamWindow> {
        let available = self.first_frame + self.frames_held(quantizers);
        self.stream.window(available, self.complete, demand)
    }

    /// Frames of it have come.
    pub(super) fn is_spoken(&self) -> bool {
        self.spoken_from.is_some()
    }

    /// What is asked of it now, where so much is worth a window. A listener who would hear a gap if sound came later than
    /// at `soon` gets what there is.
    pub(super) fn demand(&self, worth: Demand, sample_rate: u32, soon: Instant) -> Demand {
        let urgent = self.gap_at(sample_rate).is_some_and(|gap| gap <= soon);
        Demand { at_once: worth.at_once.filter(|_| urgent), ..worth }
    }

    /// When a listener will hear a gap, if there are frames that could fill it.
    pub(super) fn urgent_from(&self, quantizers: usize, worth: Demand, sample_rate: u32) -> Option<Instant> {
        self.gap_at(sample_rate).filter(|_| self.window(quantizers, worth).is_some())
    }

    /// When a listener has heard all that was given out; `None` while there is no listener.
    fn gap_at(&self, sample_rate: u32) -> Option<Instant> {
        let from = self.heard_from.filter(|_| self.streamed)?;
        Some(from + Duration::from_secs_f64(self.samples as f64 / f64::from(sample_rate)))
    }

    /// Says whether this is the first window that is planned.
    pub(super) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.started, true)
    }

    /// The codes of a window.
    pub(super) fn codes_of(&self, window: &StreamWindow, quantizers: usize) -> Option<&[u32]> {
        let place = |frame: usize| frame.checked_sub(self.first_frame).map(|frame| frame * quantizers);
        self.codes.get(place(window.frames.start)?..place(window.frames.end)?)
    }

    /// A window has been decoded. Lets go of frames that are needed no more.
    pub(super) fn decoded(&mut self, window: &StreamWindow, quantizers: usize, now: Instant) {
        self.stream.advance(window);
        self.heard_from.get_or_insert(now);
        self.samples += window.keep.len();
        let old = self.stream.oldest_needed_frame().saturating_sub(self.first_frame);
        self.codes.drain(..(old * quantizers).min(self.codes.len()));
        self.first_frame += old;
    }

    /// When the next sound is due: when a listener has heard all that was given out. An utterance without sound is due
    /// soon after its first frame, one that nobody hears some time after that; one without a frame cannot be decoded.
    pub(super) fn deadline(&self, sample_rate: u32) -> Option<Instant> {
        let patience = if self.streamed { FIRST_SOUND_PATIENCE } else { UNHEARD_PATIENCE };
        self.gap_at(sample_rate).or_else(|| Some(self.spoken_from? + patience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::qwen3_omni::StreamingSchedule;

    const QUANTIZERS: usize = 2;
    const RATE: u32 = 24_000;

    fn utterance() -> Utterance {
        let schedule = StreamingSchedule { initial_frames: 4, chunk_frames: 25, left_context_frames: 25 };
        Utterance::new(CodecStream::with_samples(1920, 555, schedule), true)
    }

    fn decode(utterance: &mut Utterance, now: Instant) {
        let window = utterance.window(QUANTIZERS, Demand::default()).unwrap();
        assert!(utterance.codes_of(&window, QUANTIZERS).is_some());
        utterance.decoded(&window, QUANTIZERS, now);
    }

    #[test]
    fn sound_is_due_when_all_that_was_given_out_has_been_heard() {
        let begun = Instant::now();
        let mut utterance = utterance();
        assert_eq!(utterance.deadline(RATE), None);
        utterance.push(vec![0; 29 * QUANTIZERS], begun);
        assert_eq!(utterance.deadline(RATE), Some(begun + FIRST_SOUND_PATIENCE));
        let heard = begun + Duration::from_secs(1);
        decode(&mut utterance, heard);
        let seconds = (4 * 1920 - 555) as f64 / f64::from(RATE);
        assert_eq!(utterance.deadline(RATE), Some(heard + Duration::from_secs_f64(seconds)));
        decode(&mut utterance, heard + Duration::from_secs(9));
        let seconds = (29 * 1920 - 555) as f64 / f64::from(RATE);
        assert_eq!(utterance.deadline(RATE), Some(heard + Duration::from_secs_f64(seconds)));
    }

    #[test]
    fn a_listener_who_is_about_to_hear_a_gap_gets_what_there_is() {
        let begun = Instant::now();
        for streamed in [true, false] {
            let mut utterance = Utterance { streamed, ..utterance() };
            utterance.push(vec![0; 10 * QUANTIZERS], begun);
            let far = begun + Duration::from_secs(100);
            let worth = Demand { first_frames: 4, at_once: Some(4) };
            let usual = Demand { at_once: None, ..worth };
            assert_eq!(utterance.demand(worth, RATE, far), usual, "there is no listener yet");
            assert_eq!(utterance.urgent_from(QUANTIZERS, worth, RATE), None);
            decode(&mut utterance, begun);
            let dry = utterance.deadline(RATE).unwrap();
            let before = dry - Duration::from_millis(1);
            assert_eq!(utterance.demand(worth, RATE, before), usual);
            assert_eq!(utterance.urgent_from(QUANTIZERS, worth, RATE), streamed.then_some(dry));
            let window = utterance.window(QUANTIZERS, utterance.demand(worth, RATE, dry));
            assert_eq!(window.map(|window| window.frames), streamed.then_some(0..10));
        }
    }

    #[test]
    fn frames_are_held_as_long_as_they_are_context() {
        let mut utterance = utterance();
        utterance.push(vec![0; 60 * QUANTIZERS], Instant::now());
        for held in [60, 56, 31] {
            decode(&mut utterance, Instant::now());
            assert_eq!(utterance.frames_held(QUANTIZERS), held);
        }
        assert!(!utterance.is_decoded(QUANTIZERS));
        utterance.complete();
        decode(&mut utterance, Instant::now());
        assert!(utterance.is_decoded(QUANTIZERS));
    }
}
