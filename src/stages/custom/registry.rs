//! Custom stages by name.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use super::around::Around;
use super::description::CustomStage;
use crate::metrics::InvalidFamily;
use crate::stages::Stage;

/// The custom stages that a program brings, by the names under which deploy files place them.
#[derive(Debug, Default)]
pub struct Registry {
    stages: BTreeMap<String, CustomStage>,
    /// What is put around the model's own stages, by their names.
    pub(super) arounds: BTreeMap<String, Around>,
    /// Where they stand unless a deploy file says so, in YAML.
    deployment: Option<String>,
}

/// Why a stage cannot be registered.
///
/// It is written for people in either format, so that a `main` which returns it says what is wrong.
#[derive(Clone, PartialEq, Eq, Error)]
pub enum RegistryError {
    /// The name cannot be one.
    #[error(
        "{name:?} cannot be the name of a stage: it must be made of ASCII letters, digits, '_' and '-', and begin with a letter"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The name is taken.
    #[error("stage {name:?} is registered twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// It declares a family that cannot be.
    #[error("stage {name:?}: {cause}")]
    Family {
        /// The stage.
        name: String,
        /// Why.
        cause: InvalidFamily,
    },
    /// It declares a family that it, or another stage, declares otherwise.
    #[error("stage {name:?} declares metric family {family:?} otherwise than stage {other:?}")]
    OtherFamily {
        /// The stage.
        name: String,
        /// The family.
        family: String,
        /// The stage that declares it, too.
        other: String,
    },
    /// It declares a family twice.
    #[error("stage {name:?} declares metric family {family:?} twice")]
    FamilyTwice {
        /// The stage.
        name: String,
        /// The family.
        family: String,
    },
}

impl fmt::Debug for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Registry {
    /// A registry without stages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a stage under a name.
    pub fn stage(&mut self, name: &str, stage: CustomStage) -> Result<(), RegistryError> {
        let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !name.starts_with(|first: char| first.is_ascii_alphabetic()) || !name.chars().all(in_name) {
            return Err(RegistryError::Name { name: name.to_owned() });
        }
        if self.stages.contains_key(name) {
            return Err(RegistryError::Twice { name: name.to_owned() });
        }
        self.check_families(name, &stage)?;
        self.stages.insert(name.to_owned(), stage);
        Ok(())
    }

    /// Puts something around a stage of the model, such as `thinker`: `around` is given every life of every replica of it,
    /// and what it makes of that stands in its place. So a program looks at what a stage does, or delays it, or has it
    /// fail in a test. What is put around the same stage later takes the place of what was before.
    pub fn around(
        &mut self,
        stage: &str,
        around: impl Fn(Box<dyn Stage>) -> Box<dyn Stage> + Send + Sync + 'static,
    ) {
        self.arounds.insert(stage.to_owned(), Around::new(around));
    }

    /// Says where the stages stand, in the YAML of a deploy file. It is taken where the command line names no file.
    pub fn deploy(&mut self, yaml: &str) {
        self.deployment = Some(yaml.to_owned());
    }

    /// What was given to [`deploy`](Self::deploy).
    pub fn deployment(&self) -> Option<&str> {
        self.deployment.as_deref()
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.keys().map(String::as_str)
    }

    /// The stage of a name.
    pub fn get(&self, name: &str) -> Option<&CustomStage> {
        self.stages.get(name)
    }

    /// Stages may share a family if they declare it alike.
    fn check_families(&self, name: &str, stage: &CustomStage) -> Result<(), RegistryError> {
        for (index, declared) in stage.families.iter().enumerate() {
            let (name, family) = (name.to_owned(), declared.name().to_owned());
            if let Err(cause) = declared.check() {
                return Err(RegistryError::Family { name, cause });
            }
            if stage.families.iter().take(index).any(|before| before.open_name() == declared.open_name()) {
                return Err(RegistryError::FamilyTwice { name, family });
            }
            let otherwise = |(_, other): &(&String, &CustomStage)| {
                other
                    .families
                    .iter()
                    .any(|other| other.open_name() == declared.open_name() && other != declared)
            };
            if let Some((other, _)) = self.stages.iter().find(otherwise) {
                return Err(RegistryError::OtherFamily { name, family, other: other.clone() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::MetricFamily;
    use crate::stages::custom::{NoSettings, StageContext};
    use crate::stages::{FunctionStage, Item, StageRequest};

    fn stage(families: &[MetricFamily]) -> CustomStage {
        let stage = CustomStage::new(|_: NoSettings, _: &StageContext| {
            Ok(FunctionStage::new(|_: &StageRequest, _: Item<'_>| Ok(Vec::new())))
        });
        families.iter().cloned().fold(stage, CustomStage::counts)
    }

    #[test]
    fn names_must_be_well_formed_and_are_taken_once() {
        let mut registry = Registry::new();
        for name in ["", "1a", "-a", "a b", "ä", "a.b"] {
            let error = registry.stage(name, stage(&[])).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{name:?} cannot be the name")), "{error}");
        }
        registry.stage("loudness-2_b", stage(&[])).unwrap();
        let error = registry.stage("loudness-2_b", stage(&[])).unwrap_err();
        assert_eq!(format!("{error:?}"), "stage \"loudness-2_b\" is registered twice");
        assert_eq!(registry.names().collect::<Vec<_>>(), ["loudness-2_b"]);
    }

    #[test]
    fn families_must_be_well_formed_and_mean_one_thing() {
        let mut registry = Registry::new();
        let complaint = |registry: &mut Registry, families: &[MetricFamily]| {
            registry.stage("b", stage(families)).unwrap_err().to_string()
        };
        let words = MetricFamily::counter("words_total", "Words.");
        registry.stage("a", stage(std::slice::from_ref(&words))).unwrap();
        assert_eq!(
            complaint(&mut registry, &[MetricFamily::counter("answers", "Answers.")]),
            "stage \"b\": metric family \"answers\": the names of counters, and of nothing else, end in \"_total\""
        );
        assert_eq!(
            complaint(&mut registry, &[words.clone(), words.clone()]),
            "stage \"b\" declares metric family \"words_total\" twice"
        );
        assert_eq!(
            complaint(&mut registry, &[words.clone().label("language")]),
            "stage \"b\" declares metric family \"words_total\" otherwise than stage \"a\""
        );
        let same_in_open_metrics = MetricFamily::gauge("words", "Words at the moment.");
        assert_eq!(
            complaint(&mut registry, &[same_in_open_metrics]),
            "stage \"b\" declares metric family \"words\" otherwise than stage \"a\""
        );
        registry.stage("b", stage(&[words])).unwrap();
    }
}
