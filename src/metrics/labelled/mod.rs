//! Labelled statistics: families that a custom stage declares, what it counts in them, and how that travels.
//!
//! A [`MetricFamily`] is declared before the server starts. A replica counts through handles to the children of its
//! families ([`CounterFamily`], [`GaugeFamily`], [`HistogramFamily`]), which its [`Recorder`] keeps. A report carries
//! them as [`LabelledStats`]: metric → label values → value.

mod declaration;
mod recorder;
mod stats;

pub use declaration::{FamilyKind, InvalidFamily, MetricFamily};
pub(in crate::metrics) use recorder::OVERFLOW;
pub use recorder::{CounterFamily, FamilyError, GaugeFamily, HistogramFamily, Recorder};
pub use stats::{HistogramTotals, LabelValues, LabelledStats, LabelledValue};
