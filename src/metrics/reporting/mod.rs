//! The senders' side: how events reach the metrics actor, and when a replica reports.

pub mod pacer;
pub mod port;
pub mod reporter;
pub mod sender;

pub use pacer::{REPORT_INTERVAL, ReportPacer};
pub use port::{FlushRequest, StatsPort};
pub use reporter::ReplicaReporter;
pub use sender::StatsSender;
