//! A stage in which goes wrong what the prompt says, behind a gate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use omni_actors::stages::{Stage, StageError, StageEvent, StageInput, StageOutput, StageRequest};
use omni_actors::{Registry, RequestId};

use crate::gate::Gate;
use crate::surrounded::{Surroundings, surround};

/// What goes wrong with a request, and in which stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The stage does not take it.
    Refused,
    /// The stage gives it up when it has given so many outputs for it.
    Fails(usize),
    /// The stage panics then.
    Panics(usize),
    /// The stage is broken then.
    Breaks(usize),
}

impl Trouble {
    /// What a prompt says for it to happen in a stage.
    pub(crate) fn words(self, stage: &str) -> String {
        match self {
            Self::Refused => format!("{stage} refuses 0"),
            Self::Fails(after) => format!("{stage} fails {after}"),
            Self::Panics(after) => format!("{stage} panics {after}"),
            Self::Breaks(after) => format!("{stage} breaks {after}"),
        }
    }

    /// What a prompt says of a stage, if it does.
    fn of(prompt: &str, stage: &str) -> Option<Self> {
        let mut words = prompt.split(stage).nth(1)?.split_whitespace();
        let what = words.next()?;
        let after = words.next()?.parse().ok()?;
        match what {
            "refuses" => Some(Self::Refused),
            "fails" => Some(Self::Fails(after)),
            "panics" => Some(Self::Panics(after)),
            "breaks" => Some(Self::Breaks(after)),
            _ => None,
        }
    }
}

/// How often replicas broke, by the reason that their restarts must be counted with.
pub(crate) type Broken = Arc<Mutex<BTreeMap<&'static str, usize>>>;

/// Puts a gate around a stage, and trouble that the prompts ask for.
pub(crate) fn trouble_stage(registry: &mut Registry, stage: &'static str, gate: &Arc<Gate>, broken: &Broken) {
    let (gate, broken) = (gate.clone(), broken.clone());
    surround(registry, stage, move || Troubled {
        stage,
        gate: gate.clone(),
        broken: broken.clone(),
        requests: BTreeMap::new(),
    });
}

/// What makes trouble in a stage, for the requests of which the prompt says so.
struct Troubled {
    stage: &'static str,
    gate: Arc<Gate>,
    broken: Broken,
    /// Outputs of requests so far, and what goes wrong with them.
    requests: BTreeMap<RequestId, (usize, Trouble)>,
}

impl Surroundings for Troubled {
    fn comes(&mut self, request: &StageRequest) -> Result<(), StageError> {
        let (StageInput::Prompt(prompt) | StageInput::Upstream(prompt)) = &request.input;
        let Some(trouble) = Trouble::of(&prompt.text, self.stage) else { return Ok(()) };
        if trouble == Trouble::Refused {
            return Err(StageError::InvalidInput("it was told to".to_owned()));
        }
        self.requests.insert(request.id, (0, trouble));
        Ok(())
    }

    fn taken(&mut self, request: RequestId) {
        self.gate.taken(request);
    }

    fn hold_up(&mut self) -> bool {
        self.gate.hold_up()
    }

    fn gave(
        &mut self,
        _: Instant,
        outputs: &mut Vec<StageOutput>,
        inner: &mut dyn Stage,
    ) -> Result<(), StageError> {
        let mut failed = Vec::new();
        for output in &*outputs {
            let is_output = matches!(output.event, StageEvent::Client(_) | StageEvent::Next(_));
            let Some((given, trouble)) = self.requests.get_mut(&output.request).filter(|_| is_output) else {
                continue;
            };
            *given += 1;
            let broken =
                |reason| *self.broken.lock().expect("nobody panicked").entry(reason).or_default() += 1;
            match *trouble {
                Trouble::Fails(after) if *given == after => failed.push(output.request),
                Trouble::Panics(after) if *given == after => {
                    broken("replica_panic");
                    panic!("it was told to");
                }
                Trouble::Breaks(after) if *given == after => {
                    broken("device_error");
                    return Err(StageError::Device("it was told to".to_owned()));
                }
                _ => {}
            }
        }
        for request in failed {
            // Nothing more of it, also where it ends in this very step.
            outputs.retain(|output| output.request != request);
            inner.remove(request);
            let error = StageError::Failed("it was told to".to_owned());
            outputs.push(StageOutput { request, event: StageEvent::Failed(error) });
        }
        Ok(())
    }
}
