//! A whole pipeline from stages of one's own, without a model: text in, text out.
//!
//! `cargo run --release --example custom_pipeline` serves it. The first stage takes
//! the prompt apart, the second makes a numbered list of the words; streamed, every word is a chunk of its own.

use std::process::ExitCode;

use omni_actors::{
    CustomStage, Emission, FunctionStage, Item, Modality, NoSettings, Payload, PayloadKind, Registry,
    RegistryError, Server, StageContext, StageError, StageRequest,
};
use serde::Deserialize;

/// How the stages are put in a row, unless `--deploy-config` names a file.
const DEPLOYMENT: &str = "
pipeline: custom
stages:
  - stage_id: 0
    custom_stage: words
  - stage_id: 1
    custom_stage: list
    settings: {first: 1}
    input_connectors: {from_stage_0: serialized}
";

/// Sends the words of the prompt to the next stage, one by one.
fn words() -> CustomStage {
    CustomStage::new(|_: NoSettings, _: &StageContext| {
        Ok(FunctionStage::new(|_: &StageRequest, item: Item<'_>| {
            let Item::Prompt(prompt) = item else { return Err(item.unexpected("the prompt")) };
            let words: Vec<_> = prompt.text.split_whitespace().collect();
            if words.is_empty() {
                return Err(StageError::InvalidInput("there are no words to be listed".into()));
            }
            Ok(words.iter().map(|word| Emission::Next(Payload::Text((*word).to_owned()))).collect())
        }))
    })
    .sends(PayloadKind::Text)
}

/// `settings` of the second stage.
#[derive(Deserialize)]
struct Numbering {
    /// The number of the first word.
    first: u32,
}

/// Gives the client a line for every word, with its number. The count is kept per request.
fn list() -> CustomStage {
    CustomStage::new(|settings: Numbering, _: &StageContext| {
        Ok(FunctionStage::per_request(move |_: &StageRequest| {
            let mut number = settings.first;
            Ok(move |item: Item<'_>| match item {
                Item::Payload(Payload::Text(word)) => {
                    let line = format!("{number}. {word}\n");
                    number += 1;
                    Ok(vec![Emission::text(line)])
                }
                Item::End => Ok(Vec::new()),
                other => Err(other.unexpected("text")),
            })
        }))
    })
    .takes(PayloadKind::Text)
    .gives(Modality::Text)
}

fn main() -> Result<ExitCode, RegistryError> {
    let mut registry = Registry::new();
    registry.stage("words", words())?;
    registry.stage("list", list())?;
    registry.deploy(DEPLOYMENT);
    Ok(Server::new(registry).by_default(["serve"]).run(std::env::args_os()))
}
