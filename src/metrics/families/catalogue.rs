//! The families of one server, in one registry of its own.

use std::sync::Arc;

use prometheus::Registry;

use crate::metrics::definitions::Definition;
use crate::metrics::exposition::Heading;
use crate::metrics::families::{Blueprint, Family, Series};
use crate::metrics::labelled::MetricFamily;
use crate::metrics::{Exposition, MetricsError, OmniPrefix};

/// The registry of one server and the headings of all that is registered. Never the crate's default registry: two
/// servers in one process do not collide.
#[derive(Debug)]
pub struct Catalogue {
    /// Where the series are gathered from.
    registry: Registry,
    /// Name, type and help of every family, in the order of registration, which is the order of the page.
    headings: Arc<Vec<Heading>>,
    /// What the names of pipeline families begin with.
    omni_prefix: OmniPrefix,
    /// The value of the label `model_name`.
    model_name: String,
}

impl Catalogue {
    /// A catalogue without families.
    pub fn new(omni_prefix: OmniPrefix, model_name: String) -> Self {
        Self { registry: Registry::new(), headings: Arc::default(), omni_prefix, model_name }
    }

    /// Registers a family. It shows HELP and TYPE from now on, and every series that is created in it.
    pub fn register<S: Series>(
        &mut self,
        definition: &'static Definition,
    ) -> Result<Family<S>, MetricsError> {
        self.add(Blueprint::defined(definition, self.omni_prefix.as_str()))
    }

    /// Registers a family that a custom stage declared.
    pub fn register_declared<S: Series>(&mut self, family: &MetricFamily) -> Result<Family<S>, MetricsError> {
        self.add(Blueprint::declared(family))
    }

    fn add<S: Series>(&mut self, blueprint: Blueprint) -> Result<Family<S>, MetricsError> {
        let name = blueprint.name.clone();
        let heading =
            Heading { name: name.clone(), help: blueprint.help().to_owned(), kind: blueprint.kind() };
        let family = Family::new(blueprint, &self.model_name)?;
        self.registry
            .register(Box::new(family.clone()))
            .map_err(|source| MetricsError::Registry { family: name, source })?;
        Arc::make_mut(&mut self.headings).push(heading);
        Ok(family)
    }

    /// The values of all series at this moment.
    pub fn gather(&self) -> Exposition {
        Exposition::new(Arc::clone(&self.headings), self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Counter;

    use super::*;
    use crate::metrics::TextFormat;
    use crate::metrics::definitions::pipeline::REQUESTS_ACCEPTED;

    fn catalogue() -> Catalogue {
        Catalogue::new(OmniPrefix::default(), "m".to_owned())
    }

    #[test]
    fn a_family_is_registered_once() {
        let mut catalogue = catalogue();
        let _: Family<Counter> = catalogue.register(&REQUESTS_ACCEPTED).unwrap();
        let error = catalogue.register::<Counter>(&REQUESTS_ACCEPTED).unwrap_err();
        assert_eq!(error.reason(), "metric_registry");
    }

    #[test]
    fn two_servers_in_one_process_do_not_collide() {
        let (mut first, mut second) = (catalogue(), catalogue());
        let accepted: Family<Counter> = first.register(&REQUESTS_ACCEPTED).unwrap();
        let _: Family<Counter> = second.register(&REQUESTS_ACCEPTED).unwrap();
        accepted.series(&[]).unwrap().inc();
        let text = |catalogue: &Catalogue| catalogue.gather().to_text(TextFormat::Classic);
        assert!(text(&first).contains("accepted_total{model_name=\"m\"} 1.0"));
        assert!(!text(&second).contains("accepted_total{model_name=\"m\"} 1.0"));
    }
}
