//! Custom stages: what a user registers under a name, and how it becomes a stage of a pipeline.
//!
//! A [`CustomStage`] describes a stage: what it takes, what it makes, which metric families it declares and how it is
//! built. A [`Registry`] holds descriptions by name. The deploy file names one of them with `custom_stage`, and
//! [`Registry::place`] puts it where that says.

mod around;
mod context;
mod description;
mod placement;
mod registry;
mod settings;

pub use context::StageContext;
pub use description::CustomStage;
pub use placement::PlacementError;
pub use registry::{Registry, RegistryError};
pub use settings::{NoSettings, SettingsError};
