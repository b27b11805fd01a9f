//! Which life of a replica is the present one.

use crate::ids::Epoch;

/// Which life a replica is in, and how new what was heard of it is.
#[derive(Debug, Default)]
pub struct Presence {
    state: State,
    /// The newest report of the present life whose values were taken, so that a late one does not show the past.
    newest: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// It was announced, and nothing was heard of it.
    #[default]
    Expected,
    /// This life is present.
    Up(Epoch),
    /// This life is over, and no later one has begun.
    Down(Epoch),
}

impl Presence {
    /// A life was heard of. Whether it is later than all before, and so begins now.
    pub fn begins(&mut self, epoch: Epoch) -> bool {
        match self.state {
            State::Up(last) | State::Down(last) if epoch <= last => false,
            State::Expected | State::Up(_) | State::Down(_) => {
                *self = Self { state: State::Up(epoch), newest: 0 };
                true
            }
        }
    }

    /// A life is over. Whether no later one has begun, so that the replica is gone now.
    pub fn ends(&mut self, epoch: Epoch) -> bool {
        match self.state {
            State::Up(last) | State::Down(last) if epoch < last => false,
            State::Expected | State::Up(_) | State::Down(_) => {
                self.state = State::Down(epoch);
                true
            }
        }
    }

    /// A report holds present values. Whether it is of the present life, and newer than those before.
    pub fn is_news(&mut self, epoch: Epoch, sequence: u64) -> bool {
        let news = self.state == State::Up(epoch) && sequence > self.newest;
        if news {
            self.newest = sequence;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_begin_and_end_in_order_whatever_the_order_of_the_news() {
        let mut presence = Presence::default();
        assert!(presence.begins(Epoch(1)) && !presence.begins(Epoch(1)) && !presence.begins(Epoch(0)));
        assert!(!presence.ends(Epoch(0)));
        assert!(presence.ends(Epoch(1)) && !presence.begins(Epoch(1)));
        assert!(presence.begins(Epoch(2)));
    }

    #[test]
    fn late_values_and_those_of_another_life_are_no_news() {
        let mut presence = Presence::default();
        assert!(!presence.is_news(Epoch(0), 1), "it has not begun");
        presence.begins(Epoch(0));
        let news = [1, 3, 2, 3, 4].map(|sequence| presence.is_news(Epoch(0), sequence));
        assert_eq!(news, [true, true, false, false, true]);
        presence.begins(Epoch(1));
        assert!(presence.is_news(Epoch(1), 1) && !presence.is_news(Epoch(0), 9));
    }
}
