//! How a stream of frames is cut into windows, and which samples of a window go out.
//!
//! The decoder's transposed convolutions look ahead: the last samples of a window would need the next frame, so a
//! window is short by [`Code2WavConfig::lookahead_samples`]. A window that repeats frames as left context
//! therefore keeps its samples from where the window before it ended, and the stream has no gaps. Only the very
//! last samples of an utterance are missing.
//!
//! Where windows end is fixed by the schedule, but for the first: it may be made larger, as long as the window behind it
//! still has the whole utterance as its context. Then every sample is computed from the same frames as before, and only
//! the packets are others.

use std::ops::Range;

use crate::models::qwen3_omni::config::Code2WavConfig;

impl Code2WavConfig {
    /// Samples that a frame becomes.
    pub fn samples_per_frame(&self) -> usize {
        self.upsampling_ratios.iter().chain(&self.upsample_rates).product()
    }

    /// Samples that a window lacks at its end: each decoder block gives `(n - 1) * rate` rows for `n`.
    pub fn lookahead_samples(&self) -> usize {
        let rates = self.upsample_rates.iter().rev();
        rates
            .scan(1, |product, rate| {
                *product *= rate;
                Some(*product)
            })
            .sum()
    }

    /// Samples of a window of so many frames.
    pub fn window_samples(&self, frames: usize) -> usize {
        (frames * self.samples_per_frame()).saturating_sub(self.lookahead_samples())
    }
}

/// The sizes of windows, in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamingSchedule {
    /// New frames of the first window; few, so that sound comes soon.
    pub initial_frames: usize,
    /// New frames of all later windows.
    pub chunk_frames: usize,
    /// Frames that a later window repeats, where there are so many.
    pub left_context_frames: usize,
}

/// A window of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamWindow {
    /// Its frames, counted from the beginning of the utterance, context included.
    pub frames: Range<usize>,
    /// The samples of the window that go out, counted from the window's beginning; up to its end.
    pub keep: Range<usize>,
}

/// How far a stream has been decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecStream {
    /// The sizes of windows.
    schedule: StreamingSchedule,
    /// What a frame becomes.
    samples_per_frame: usize,
    /// What a window lacks at its end.
    lookahead_samples: usize,
    /// Frames that windows have covered.
    decoded_frames: usize,
}

impl CodecStream {
    /// A stream at its beginning. A size of 0 new frames counts as 1.
    pub fn new(config: &Code2WavConfig, schedule: StreamingSchedule) -> Self {
        Self::with_samples(config.samples_per_frame(), config.lookahead_samples(), schedule)
    }

    /// The same for frames that become so many samples each, of windows that lack so many at their end.
    pub fn with_samples(
        samples_per_frame: usize,
        lookahead_samples: usize,
        schedule: StreamingSchedule,
    ) -> Self {
        Self {
            schedule: StreamingSchedule {
                initial_frames: schedule.initial_frames.max(1),
                chunk_frames: schedule.chunk_frames.max(1),
                left_context_frames: schedule.left_context_frames,
            },
            samples_per_frame,
            lookahead_samples,
            decoded_frames: 0,
        }
    }

    /// The next window, once enough of the `available` frames of the utterance are there, or all if `finished`.
    /// A window that is given out counts as decoded.
    pub fn next_window(&mut self, available: usize, finished: bool) -> Option<StreamWindow> {
        let window = self.window(available, finished, self.schedule.initial_frames)?;
        self.advance(&window);
        Some(window)
    }

    /// What the next window is, if it can be decoded. The first one has `first_frames` frames, as far as this changes no
    /// sample: at least as many as the schedule says, and otherwise at most as many as are context.
    pub fn window(&self, available: usize, finished: bool, first_frames: usize) -> Option<StreamWindow> {
        let StreamingSchedule { initial_frames, chunk_frames, left_context_frames } = self.schedule;
        let decoded = self.decoded_frames;
        let due = match decoded.checked_sub(initial_frames) {
            Some(later) => initial_frames + (later / chunk_frames + 1) * chunk_frames,
            None if decoded == 0 => first_frames.min(left_context_frames).max(initial_frames),
            // An utterance that ended within its first window.
            None => initial_frames,
        };
        if available <= decoded || (available < due && !finished) {
            return None;
        }
        let context = left_context_frames.min(decoded);
        let frames = decoded - context..due.min(available);
        let samples =
            |frames: usize| (frames * self.samples_per_frame).saturating_sub(self.lookahead_samples);
        let keep = samples(context)..samples(frames.len());
        Some(StreamWindow { frames, keep })
    }

    /// Counts a window as decoded.
    pub fn advance(&mut self, window: &StreamWindow) {
        self.decoded_frames = window.frames.end;
    }

    /// The oldest frame that later windows may still ask for.
    pub fn oldest_needed_frame(&self) -> usize {
        self.decoded_frames.saturating_sub(self.schedule.left_context_frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Code2WavConfig {
        Code2WavConfig {
            hidden_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            intermediate_size: 8,
            codebook_size: 4,
            num_quantizers: 2,
            sliding_window: 4,
            rope_theta: 1e4,
            rms_norm_eps: 1e-5,
            decoder_dim: 16,
            upsample_rates: vec![8, 5, 4, 3],
            upsampling_ratios: vec![2, 2],
        }
    }

    fn all_windows(schedule: StreamingSchedule, frames: usize) -> Vec<StreamWindow> {
        let mut stream = CodecStream::new(&config(), schedule);
        std::iter::from_fn(|| stream.next_window(frames, true)).collect()
    }

    #[test]
    fn the_released_rates_give_1920_samples_a_frame_and_lack_555() {
        assert_eq!(config().samples_per_frame(), 1920);
        assert_eq!(config().lookahead_samples(), 555);
        assert_eq!(config().window_samples(27), 27 * 1920 - 555);
    }

    #[test]
    fn windows_join_without_a_gap_whatever_their_sizes() {
        for schedule in [(4, 25, 25), (2, 6, 6), (1, 1, 1), (1, 3, 7)] {
            let (initial_frames, chunk_frames, left_context_frames) = schedule;
            let schedule = StreamingSchedule { initial_frames, chunk_frames, left_context_frames };
            let mut next = 0;
            for window in all_windows(schedule, 27) {
                let base = window.frames.start * 1920;
                assert_eq!(base + window.keep.start, next);
                assert_eq!(window.keep.end, config().window_samples(window.frames.len()));
                next = base + window.keep.end;
            }
            assert_eq!(next, config().window_samples(27));
        }
    }

    #[test]
    fn a_larger_first_window_leaves_all_later_ones_where_they_are_and_the_second_its_whole_context() {
        let schedule = StreamingSchedule { initial_frames: 4, chunk_frames: 10, left_context_frames: 20 };
        let due = all_windows(schedule, 70);
        for first_frames in 0..40 {
            let mut stream = CodecStream::new(&config(), schedule);
            let first = stream.window(70, true, first_frames).unwrap();
            assert_eq!(first.frames, 0..first_frames.clamp(4, 20));
            stream.advance(&first);
            let second = stream.next_window(70, true).unwrap();
            assert_eq!(second.frames.start, 0);
            let unchanged = due.iter().filter(|window| window.frames.end > second.frames.end);
            for window in unchanged {
                assert_eq!(stream.next_window(70, true).as_ref(), Some(window), "{first_frames}");
            }
            assert_eq!(stream.next_window(70, true), None);
        }
    }

    #[test]
    fn a_window_waits_for_its_frames_unless_the_utterance_is_over() {
        let schedule = StreamingSchedule { initial_frames: 4, chunk_frames: 25, left_context_frames: 25 };
        let mut stream = CodecStream::new(&config(), schedule);
        assert_eq!(stream.next_window(3, false), None);
        assert_eq!(stream.next_window(6, false).map(|window| window.frames), Some(0..4));
        assert_eq!(stream.next_window(28, false), None);
        assert_eq!(stream.next_window(28, true).map(|window| window.frames), Some(0..28));
        assert_eq!(stream.next_window(28, true), None);
        assert_eq!(stream.oldest_needed_frame(), 3);
    }
}
