//! A gate before the steps of a stage: while it is closed, requests queue and nothing is computed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use omni_actors::stages::{Output, Stage, StageError, StageEvent, StageOutput};
use omni_actors::{Registry, RequestId};

use crate::surrounded::{Surroundings, surround};

/// A request that the stage has not taken after this long has failed the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// The gate, which stages and the test share. It is closed to begin with.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: AtomicBool,
    /// Steps that may still be planned while it is closed.
    left: AtomicUsize,
    /// Requests that the stage took.
    taken: AtomicUsize,
    /// Tokens that each step gave, of those that gave some.
    steps: Mutex<Vec<usize>>,
}

impl Gate {
    /// A closed gate before every replica of a stage of the model.
    pub(crate) fn before(stage: &str) -> (Arc<Self>, Registry) {
        let (gate, mut registry) = (Arc::new(Self::default()), Registry::new());
        surround(&mut registry, stage, {
            let gate = gate.clone();
            move || gate.clone()
        });
        (gate, registry)
    }

    /// A gate that is open to begin with.
    pub(crate) fn opened() -> Self {
        Self { open: AtomicBool::new(true), ..Self::default() }
    }

    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    /// Lets a few steps pass, and no further one. The gate must be closed.
    pub(crate) fn let_through(&self, steps: usize) {
        self.left.store(steps, Ordering::SeqCst);
    }

    /// Requests that the stage has taken so far.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Waits until the stage has taken so many requests in all.
    pub(crate) fn await_taken(&self, requests: usize) {
        let until = Instant::now() + PATIENCE;
        while self.taken() < requests {
            assert!(Instant::now() < until, "only {self:?}");
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Tokens that each step gave, of those that gave some.
    pub(crate) fn steps(&self) -> Vec<usize> {
        self.steps.lock().expect("nobody panicked").clone()
    }
}

impl Surroundings for Arc<Gate> {
    fn taken(&mut self, _: RequestId) {
        self.taken.fetch_add(1, Ordering::SeqCst);
    }

    fn hold_up(&mut self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        !self.open.load(Ordering::SeqCst)
            && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err()
    }

    fn gave(
        &mut self,
        _: Instant,
        outputs: &mut Vec<StageOutput>,
        _: &mut dyn Stage,
    ) -> Result<(), StageError> {
        let is_token = |output: &&StageOutput| matches!(output.event, StageEvent::Client(Output::Text(_)));
        let tokens = outputs.iter().filter(is_token).count();
        if tokens > 0 {
            self.steps.lock().expect("nobody panicked").push(tokens);
        }
        Ok(())
    }
}
