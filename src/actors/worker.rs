//! The worker: the thread that owns a stage and steps it.
//!
//! A turn of its loop takes what came in, removes what was cancelled, plans and launches steps, and passes on what
//! came out. It sleeps when there is nothing to do, and steps no further while the next stage takes no chunks.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use actix::Recipient;
use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded};
use foldhash::HashMap;

use crate::actors::job_account::JobAccount;
use crate::actors::messages::{
    ExitCause, Job, RequestEvent, StageDone, StageOutcome, StageStarted, Unavailable, WorkerExited,
    WorkerReady,
};
use crate::actors::outbox::Outbox;
use crate::actors::worker_state::{WorkerState, WorkerStateCell};
use crate::actors::worker_statistics::WorkerStatistics;
use crate::engine::FinishReason;
use crate::ids::{ReplicaKey, RequestId};
use crate::metrics::{Batch, ReplicaLoad, ReplicaReporter, StatsPort, StatsSender};
use crate::stages::{
    Poll, Readiness, Stage, StageError, StageEvent, StageFactory, StageInput, StageOutput, Ticket,
};
use crate::transport::edge::edge;
use crate::transport::{Arrival, Chunk, Connector, EdgeReceiver, EdgeSender, Parcel, Payload};

/// Chunks that may wait at a replica before the stages that feed it are held up.
const CHUNK_CREDITS: usize = 1024;
/// Chunks that the next stage has not taken before no further step is launched.
const MAX_OUTBOX: usize = 64;
/// Messages taken between two steps, so that a flood of them does not keep the stage from stepping.
const MESSAGES_PER_TURN: usize = 256;

/// What a worker reports to.
#[derive(Clone)]
pub struct WorkerReports {
    /// Told when the first stage takes a request up, if statistics are on.
    pub started: Recipient<StageStarted>,
    /// Told when the replica is done with a request.
    pub done: Recipient<StageDone>,
    /// Told when the stage is built.
    pub ready: Recipient<WorkerReady>,
    /// Told when the thread ends.
    pub exited: Recipient<WorkerExited>,
    /// Told what the stage counts.
    pub statistics: StatsSender,
}

/// The outside of a worker: what its replica actor and the orchestrator hold.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    control: Sender<Control>,
    /// Where chunks for it go.
    pub chunks: EdgeSender,
    /// How it is asked to report what it counted.
    pub statistics: Arc<StatsPort>,
    shared: Arc<Shared>,
}

/// What is read and written from both sides.
#[derive(Debug, Default)]
struct Shared {
    /// Raised when requests were cancelled; the worker looks for them when it sees a new value.
    removals: AtomicUsize,
    /// Requests that the worker holds.
    jobs: AtomicUsize,
    /// How far it is.
    state: WorkerStateCell,
}

/// What comes to a worker beside chunks.
#[derive(Debug)]
enum Control {
    Begin { job: Box<Job>, queued: Instant },
    Wake,
    Stop,
}

/// A job in the worker's hands.
struct Held {
    job: Job,
    /// Number of the next chunk to the next stage.
    next_sequence: u32,
    /// Number of the next chunk from the stage before.
    expected_sequence: u32,
    /// Chunks that go to the next stage when this one is done, if none may go before.
    withheld: Vec<Parcel>,
    /// How the stage ended it. It is held until the next stage has taken its last chunk: were it reported as done
    /// before, nobody would learn that the chunk was lost with this replica.
    finished: Option<FinishReason>,
    /// Whether the stage has begun to work on it.
    started: bool,
    /// What it takes here, if statistics are on or the client asked for it.
    account: Option<JobAccount>,
}

/// What comes in.
struct Inbox {
    control: Receiver<Control>,
    chunks: EdgeReceiver,
}

struct Worker {
    key: ReplicaKey,
    stage: Box<dyn Stage>,
    inbox: Inbox,
    shared: Arc<Shared>,
    reports: WorkerReports,
    reporter: ReplicaReporter,
    jobs: HashMap<RequestId, Held>,
    /// Those of them that the stage has begun to work on.
    started: usize,
    /// Steps launched in this life of the replica.
    steps: u64,
    /// Steps launched and not complete, oldest first.
    in_flight: VecDeque<Ticket>,
    /// When the last of them was begun: since then the stage works on what it reports as started.
    launched: Instant,
    /// Chunks that the next stage has not taken yet.
    outbox: Outbox,
    /// Scratch for the outputs of a step.
    outputs: Vec<StageOutput>,
    /// What was counted since the last report, if statistics are on.
    statistics: WorkerStatistics,
    /// The value of [`Shared::removals`] that was acted on last.
    seen_removals: usize,
}

/// Why the loop ends.
enum Exit {
    Stop,
    Broken(StageError),
}

impl From<StageError> for Exit {
    fn from(error: StageError) -> Self {
        Self::Broken(error)
    }
}

/// How a worker is set up.
pub struct WorkerSettings {
    /// Which life of which replica it is.
    pub key: ReplicaKey,
    /// Builds its stage.
    pub factory: StageFactory,
    /// How chunks come to it.
    pub connector: Connector,
    /// Requests that may be queued at it.
    pub max_jobs: usize,
}

/// Starts a worker thread, which builds its stage and reports when it is ready.
pub fn spawn(settings: WorkerSettings, reports: WorkerReports) -> std::io::Result<WorkerHandle> {
    let WorkerSettings { key, factory, connector, max_jobs } = settings;
    // Room for every request to begin, and for as many wake-ups.
    let (control_sender, control) = bounded(2 * max_jobs + 2);
    let (chunk_sender, chunks) = edge(connector, CHUNK_CREDITS);
    let shared = Arc::new(Shared::default());
    let statistics = Arc::new(StatsPort::new({
        let control = control_sender.clone();
        move || wake(&control)
    }));
    let handle =
        WorkerHandle { control: control_sender, chunks: chunk_sender, statistics, shared: shared.clone() };
    let name = format!("stage-{}-{}", key.stage, key.replica);
    let reporter = ReplicaReporter::new(key, reports.statistics.clone(), handle.statistics.clone());
    thread::Builder::new().name(name).spawn(move || {
        let exited = reports.exited.clone();
        let body = AssertUnwindSafe(|| {
            let stage = match factory() {
                Ok(stage) => stage,
                Err(error) => return ExitCause::NotBuilt(error),
            };
            reports.ready.do_send(WorkerReady { key });
            Worker::new(key, stage, Inbox { control, chunks }, shared, reports, reporter).live()
        });
        let cause = catch_unwind(body).unwrap_or_else(panicked);
        exited.do_send(WorkerExited { key, cause });
    })?;
    Ok(handle)
}

impl WorkerHandle {
    /// Queues a request, unless the worker is gone or full.
    pub fn begin(&self, job: Job) -> Result<(), Unavailable> {
        // Counted from the moment it is queued, so that a request in the queue is seen to be held.
        self.shared.jobs.fetch_add(1, Ordering::Release);
        self.control.try_send(Control::Begin { job: Box::new(job), queued: Instant::now() }).map_err(|_| {
            self.shared.jobs.fetch_sub(1, Ordering::Release);
            Unavailable
        })
    }

    /// Makes the worker look for cancelled requests before its next step.
    pub fn remove_cancelled(&self) {
        // Before the look at the queue: whoever takes what lies there sees the new value.
        self.shared.removals.fetch_add(1, Ordering::SeqCst);
        wake(&self.control);
    }

    /// Ends the worker after its current step.
    pub fn stop(&self) {
        let _ = self.control.try_send(Control::Stop);
    }

    /// Requests that the worker holds or has queued.
    pub fn jobs(&self) -> usize {
        self.shared.jobs.load(Ordering::Acquire)
    }

    /// How far the worker was after its last step.
    pub fn state(&self) -> WorkerState {
        self.shared.state.get()
    }
}

impl Worker {
    fn new(
        key: ReplicaKey,
        stage: Box<dyn Stage>,
        inbox: Inbox,
        shared: Arc<Shared>,
        reports: WorkerReports,
        reporter: ReplicaReporter,
    ) -> Self {
        let statistics = WorkerStatistics::new(reports.statistics.is_on());
        Self {
            key,
            stage,
            inbox,
            shared,
            reports,
            reporter,
            jobs: HashMap::default(),
            started: 0,
            steps: 0,
            in_flight: VecDeque::new(),
            launched: Instant::now(),
            outbox: Outbox::default(),
            outputs: Vec::new(),
            statistics,
            seen_removals: 0,
        }
    }

    /// Runs to its end. A stage that broke has counted what happened until then, which clients may have been told of.
    fn live(mut self) -> ExitCause {
        let cause = catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(panicked);
        if cause != ExitCause::Stopped {
            self.reporter.changed();
            // It is no other cause if the stage cannot tell.
            let _ = catch_unwind(AssertUnwindSafe(|| self.report(true)));
        }
        cause
    }

    fn run(&mut self) -> ExitCause {
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => self.sleep(),
                Err(Exit::Stop) => return ExitCause::Stopped,
                Err(Exit::Broken(error)) => return ExitCause::Broken(error),
            }
        }
    }

    /// One turn of the loop. Says whether it is worth turning again at once.
    fn turn(&mut self) -> Result<bool, Exit> {
        self.take_messages()?;
        self.remove_cancelled();
        self.flush_outbox();
        let stepped = self.step()?;
        self.shared.state.set(WorkerState {
            steps: self.steps,
            started: self.started,
            scheduler: self.stage.scheduler(),
        });
        self.report(self.jobs.is_empty());
        Ok(stepped)
    }

    /// Tells the metrics actor what the stage counted, when it is time to: at once if it has nothing further to count.
    fn report(&mut self, idle: bool) {
        self.reporter.report_if_due(Instant::now(), idle, |stats| {
            stats.scheduler = self.stage.scheduler();
            self.stage.report(stats);
            self.statistics.report(stats);
            let in_flight = self.shared.jobs.load(Ordering::Acquire);
            let waiting = in_flight.saturating_sub(self.started) as u64;
            stats.load = Some(ReplicaLoad { in_flight: in_flight as u64, waiting });
        });
    }

    fn take_messages(&mut self) -> Result<(), Exit> {
        for _ in 0..MESSAGES_PER_TURN {
            if !self.take_control()? {
                break;
            }
        }
        for _ in 0..MESSAGES_PER_TURN.min(self.stage.room()) {
            match self.inbox.chunks.try_receive() {
                None => break,
                Some(Ok(arrival)) => self.take_chunk(arrival)?,
                // The gap in its sequence fails the request with the next chunk.
                Some(Err(error)) => tracing::error!(replica = %self.key, %error, "a chunk was lost"),
            }
        }
        Ok(())
    }

    /// Takes one control message. Says whether there was one.
    fn take_control(&mut self) -> Result<bool, Exit> {
        match self.inbox.control.try_recv() {
            Ok(Control::Begin { job, queued }) => self.begin(*job, queued),
            Ok(Control::Wake) => {}
            Ok(Control::Stop) | Err(TryRecvError::Disconnected) => return Err(Exit::Stop),
            Err(TryRecvError::Empty) => return Ok(false),
        }
        Ok(true)
    }

    fn begin(&mut self, job: Job, queued: Instant) {
        let id = job.request.id;
        self.reporter.changed();
        let request = job.request.clone();
        let measured = job.measured || self.reports.statistics.is_on();
        let held = Held {
            job,
            next_sequence: 0,
            expected_sequence: 0,
            withheld: Vec::new(),
            finished: None,
            started: false,
            account: measured.then(|| JobAccount::new(request.arrived, queued)),
        };
        self.jobs.insert(id, held);
        if request.cancelled.is_cancelled() {
            self.let_go(id, StageOutcome::Removed);
        } else if let Err(error) = self.stage.add(request) {
            self.let_go(id, StageOutcome::Failed(error));
        }
    }

    fn take_chunk(&mut self, arrival: Arrival) -> Result<(), Exit> {
        let id = arrival.chunk.request;
        // A request begins at the later stages first, so its Begin lies in the queue before its first chunk.
        while !self.jobs.contains_key(&id) && self.take_control()? {}
        let Some(held) = self.jobs.get_mut(&id) else {
            return Ok(()); // It was removed while the chunk was on its way.
        };
        if let Some(account) = &mut held.account {
            self.statistics.arrived(&arrival, self.key.stage, account);
            self.reporter.changed();
        }
        let (expected, got) = (held.expected_sequence, arrival.chunk.sequence);
        held.expected_sequence += 1;
        let pushed = if got == expected {
            self.stage.push(arrival.chunk)
        } else {
            Err(StageError::Protocol(format!("chunk {got} came where chunk {expected} was due")))
        };
        if let Err(error) = pushed {
            self.stage.remove(id);
            self.let_go(id, StageOutcome::Failed(error));
        }
        Ok(())
    }

    fn remove_cancelled(&mut self) {
        let removals = self.shared.removals.load(Ordering::SeqCst);
        if removals == self.seen_removals {
            return;
        }
        self.seen_removals = removals;
        let cancelled = |held: &&Held| held.job.request.cancelled.is_cancelled();
        let ids: Vec<_> = self.jobs.values().filter(cancelled).map(|held| held.job.request.id).collect();
        for id in ids {
            self.stage.remove(id);
            self.let_go(id, StageOutcome::Removed);
        }
    }

    /// Launches what can be launched, as long as the next stage keeps up, and waits for the oldest step. Says whether anything was done.
    fn step(&mut self) -> Result<bool, Exit> {
        let mut launched = false;
        while self.outbox.len() < MAX_OUTBOX && self.in_flight.len() < self.stage.steps_in_flight() {
            let now = Instant::now();
            if self.stage.plan() == Readiness::Idle {
                break;
            }
            self.launched = now;
            self.steps += 1;
            self.in_flight.push_back(self.stage.launch()?);
            launched = true;
        }
        let Some(&ticket) = self.in_flight.front() else { return Ok(launched) };
        let mut outputs = std::mem::take(&mut self.outputs);
        if self.stage.poll(ticket, true, &mut outputs)? == Poll::Complete {
            self.in_flight.pop_front();
        }
        for output in outputs.drain(..) {
            self.deliver(output);
        }
        self.outputs = outputs;
        self.reporter.changed();
        Ok(true)
    }

    fn deliver(&mut self, output: StageOutput) {
        let id = output.request;
        let Some(held) = self.jobs.get_mut(&id) else { return };
        if let Some(account) = &mut held.account {
            let batch = Batch { id: self.steps.saturating_sub(1), size: self.started as u64 };
            account.gave(&output.event, self.launched, batch);
            self.statistics.gave(&output.event, account);
        }
        match output.event {
            StageEvent::Started => {
                self.started += usize::from(!std::mem::replace(&mut held.started, true));
                let first = matches!(held.job.request.input, StageInput::Prompt(_));
                if first && self.reports.statistics.is_on() {
                    let started = StageStarted { request: id, replica: self.key, at: self.launched };
                    self.reports.started.do_send(started);
                }
            }
            StageEvent::Client(output) if held.job.passes_output_on => {
                if let Some(payload) = output.into_payload() {
                    self.send_on(id, payload, false);
                }
            }
            StageEvent::Client(_) if !held.job.request.to_client => {}
            StageEvent::Client(output) => {
                use tokio::sync::mpsc::error::TrySendError;
                // A closed stream means that the client is gone; the abort is on its way.
                if let Err(TrySendError::Full(_)) = held.job.events.try_send(RequestEvent::Output(output)) {
                    self.stage.remove(id);
                    let error = StageError::Protocol("more outputs than the request can have".into());
                    self.let_go(id, StageOutcome::Failed(error));
                }
            }
            StageEvent::Next(payload) => self.send_on(id, payload, false),
            // Its account has noted them.
            StageEvent::Counted(_) => {}
            StageEvent::Finished(reason) if held.job.next.is_none() => {
                self.let_go(id, StageOutcome::Finished(reason));
            }
            StageEvent::Finished(reason) => {
                held.finished = Some(reason);
                self.send_on(id, Payload::End, true);
            }
            StageEvent::Failed(error) => self.let_go(id, StageOutcome::Failed(error)),
        }
    }

    /// Numbers a payload and sends it to the next stage, if the request goes there; or keeps it back until the last one
    /// comes, if the next stage is to begin then.
    fn send_on(&mut self, id: RequestId, payload: Payload, last: bool) {
        let Some(held) = self.jobs.get_mut(&id) else { return };
        let Some(edge) = held.job.next.clone() else { return };
        let chunk = Chunk { request: id, sequence: held.next_sequence, last, payload };
        held.next_sequence += 1;
        match edge.pack(self.key.stage, chunk) {
            Ok(parcel) if !held.job.async_chunk && !last => held.withheld.push(parcel),
            Ok(parcel) => {
                for parcel in held.withheld.drain(..) {
                    self.outbox.push(id, false, edge.clone(), parcel);
                }
                self.outbox.push(id, last, edge, parcel);
                self.flush_outbox();
            }
            Err(error) => {
                self.stage.remove(id);
                self.let_go(id, StageOutcome::Failed(StageError::Protocol(error.to_string())));
            }
        }
    }

    /// Sends what the next stage takes. A finished request is done with its last chunk; one whose chunk is not taken
    /// in time fails.
    fn flush_outbox(&mut self) {
        for id in self.outbox.flush() {
            if let Some(reason) = self.jobs.get(&id).and_then(|held| held.finished) {
                self.let_go(id, StageOutcome::Finished(reason));
            }
        }
        while let Some(id) = self.outbox.overdue() {
            self.stage.remove(id);
            self.outbox.forget(id);
            let error = StageError::Protocol("the next stage takes no more chunks".into());
            self.let_go(id, StageOutcome::Failed(error));
        }
    }

    /// Drops all that is held of a request and reports it.
    fn let_go(&mut self, id: RequestId, outcome: StageOutcome) {
        let Some(held) = self.jobs.remove(&id) else { return };
        let account = held.account.map(|account| {
            let (account, first) = account.close(self.key, &outcome);
            self.statistics.let_go(&account, first);
            Box::new(account)
        });
        self.started -= usize::from(held.started);
        self.outbox.forget(id);
        self.shared.jobs.fetch_sub(1, Ordering::Release);
        self.reporter.changed();
        self.reports.done.do_send(StageDone { request: id, replica: self.key, outcome, account });
    }

    /// Waits until a message comes, the next stage takes a chunk, a report is due, or the stage has something to do without
    /// any of them.
    fn sleep(&self) {
        let now = Instant::now();
        let mut deadline = self.reporter.due_in(now).map(|due| now + due);
        let mut select = Select::new();
        select.recv(&self.inbox.control);
        if self.stage.room() > 0 {
            select.recv(self.inbox.chunks.channel());
        }
        if let Some(given_up) = self.outbox.wait_for_room(&mut select) {
            deadline = Some(deadline.map_or(given_up, |due| due.min(given_up)));
        }
        // A stage whose outputs nobody takes would be woken in vain.
        if self.outbox.len() < MAX_OUTBOX
            && let Some(due) = self.stage.wake_at()
        {
            deadline = Some(deadline.map_or(due, |deadline| deadline.min(due)));
        }
        match deadline {
            Some(deadline) => drop(select.ready_deadline(deadline)),
            None => drop(select.ready()),
        }
    }
}

/// Wakes a worker if it sleeps. One that has messages waiting looks at everything when it takes them.
fn wake(control: &Sender<Control>) {
    if control.is_empty() {
        let _ = control.try_send(Control::Wake);
    }
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> ExitCause {
    ExitCause::Panicked(panic_text(&*panic))
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
