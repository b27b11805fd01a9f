//! The demo with a stage of one's own, which changes how loud it speaks.
//!
//! `cargo run --release --example custom_stage` serves it. All else that `omni-actors` can do is there, too:
//! `… --example custom_stage -- serve --help`.
//!
//! A copy is a program of its own: this file as `src/main.rs`, and the dependencies `omni-actors` and `serde` with its feature `derive`.

use std::process::ExitCode;

use omni_actors::{
    CustomStage, Emission, FunctionStage, Item, MetricFamily, Modality, Payload, PayloadKind, Registry,
    RegistryError, Server, StageContext, StageRequest,
};
use serde::Deserialize;

/// Where the stage stands and what it is told, unless `--deploy-config` names a file: behind the demo's vocoder, so that
/// what that makes goes through it on its way to the client.
const DEPLOYMENT: &str = "
stages:
  - stage_id: 0
  - stage_id: 1
  - stage_id: 2
  - stage_id: 3
    custom_stage: loudness
    settings: {gain: 0.5}
    input_connectors: {from_stage_2: in_process}
";

/// `settings` of the stage in the deploy file.
#[derive(Deserialize)]
struct Settings {
    /// What every sample is multiplied by.
    gain: f32,
}

/// Takes the sound that the vocoder makes, and gives it to the client louder or softer.
fn loudness() -> CustomStage {
    CustomStage::new(|settings: Settings, context: &StageContext| {
        let packets = context.counter("loudness_packets_total")?;
        Ok(FunctionStage::new(move |_: &StageRequest, item: Item<'_>| match item {
            Item::Payload(Payload::Audio(mut packet)) => {
                let mut clipped = false;
                for sample in &mut packet.samples {
                    let louder = *sample * settings.gain;
                    clipped |= louder.abs() > 1.0;
                    *sample = louder.clamp(-1.0, 1.0);
                }
                packets.increment([if clipped { "yes" } else { "no" }]);
                Ok(vec![Emission::audio(packet)])
            }
            other => Err(other.unexpected("audio")),
        }))
    })
    .takes(PayloadKind::Audio)
    .gives(Modality::Audio)
    .counts(
        MetricFamily::counter("loudness_packets_total", "Packets whose loudness was changed.")
            .label("clipped"),
    )
}

fn main() -> Result<ExitCode, RegistryError> {
    let mut registry = Registry::new();
    registry.stage("loudness", loudness())?;
    registry.deploy(DEPLOYMENT);
    Ok(Server::new(registry).by_default(["serve", "--log-stats"]).run(std::env::args_os()))
}
