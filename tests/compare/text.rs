//! Tokenizer and chat template, held against `golden/tokenizer.json` and `golden/meta.json` of a set.

use std::borrow::Cow;
use std::error::Error;
use std::fs;
use std::path::Path;

use omni_actors::config::checkpoint::TokenizerModel;
use omni_actors::config::{Checkpoint, TokenizerFiles};
use omni_actors::text::{ChatTemplate, Tokenizer};
use serde_json::{Map, Value, json};

use super::{Comparison, Outcome, read_json};

/// Compares everything about text that a set holds. The tokenizer is loaded in every way that its files allow.
pub(crate) fn compare(set: &Path) -> Outcome {
    let checkpoint = Checkpoint::open(set.join("checkpoint"))?;
    // A diffusion pipeline keeps its tokenizer in a component.
    let checkpoint = checkpoint.component("tokenizer").unwrap_or(checkpoint);
    let directory = checkpoint.directory().ok_or("a golden set is a directory")?.to_owned();
    let files = checkpoint.tokenizer_files()?;
    let separate = TokenizerFiles {
        model: TokenizerModel::VocabAndMerges {
            vocab: Cow::Owned(fs::read(directory.join("vocab.json"))?),
            merges: Cow::Owned(fs::read(directory.join("merges.txt"))?),
        },
        config: files.config.clone(),
    };
    let golden = read_json(&set.join("golden/tokenizer.json"))?;
    let meta = read_json(&set.join("golden/meta.json"))?;
    let template = ChatTemplate::from_checkpoint(&checkpoint)?;

    let mut comparisons = Vec::new();
    let mut ways = vec![("vocab.json", Tokenizer::from_files(&separate)?)];
    if matches!(files.model, TokenizerModel::Complete(_)) {
        ways.push(("tokenizer.json", Tokenizer::from_files(&files)?));
    }
    for (way, tokenizer) in &ways {
        encodings(way, tokenizer, &golden, &mut comparisons)?;
        prompts(way, tokenizer, &golden, &mut comparisons)?;
        generated_texts(way, tokenizer, &meta, &mut comparisons)?;
    }
    if let Some(template) = &template {
        renders(template, &golden, &meta, &mut comparisons)?;
    }
    Ok(comparisons)
}

/// `encode`: text → ids, ids → text.
fn encodings(
    way: &str,
    tokenizer: &Tokenizer,
    golden: &Value,
    out: &mut Vec<Comparison>,
) -> Result<(), Box<dyn Error>> {
    for (index, case) in list(golden, "encode").iter().enumerate() {
        let name = format!("encode[{index}]/{way}");
        let ids = ids(case, "ids")?;
        out.push(Comparison::exact(&name, "ids", &tokenizer.encode(string(case, "text")?)?, &ids));
        if let Ok(decoded) = string(case, "decoded") {
            out.push(Comparison::exact(&name, "decoded", tokenizer.decode(&ids, false).as_str(), decoded));
        }
    }
    Ok(())
}

/// Every `…text`/`rendered` of `chat_template` and `prompts` that has ids beside it.
fn prompts(
    way: &str,
    tokenizer: &Tokenizer,
    golden: &Value,
    out: &mut Vec<Comparison>,
) -> Result<(), Box<dyn Error>> {
    const PAIRS: [(&str, &str); 4] = [
        ("rendered", "ids"),
        ("assistant_text", "ids"),
        ("ref_text", "ref_ids"),
        ("instruct_text", "instruct_ids"),
    ];
    for (name, case) in named(golden, "chat_template").into_iter().chain(named(golden, "prompts")) {
        for (text, expected) in PAIRS {
            if case.get(text).is_some() && case.get(expected).is_some() {
                let ours = tokenizer.encode(string(case, text)?)?;
                out.push(Comparison::exact(&format!("{name}/{way}"), expected, &ours, &ids(case, expected)?));
            }
        }
    }
    Ok(())
}

/// `meta.json`: generated ids → text.
fn generated_texts(
    way: &str,
    tokenizer: &Tokenizer,
    meta: &Value,
    out: &mut Vec<Comparison>,
) -> Result<(), Box<dyn Error>> {
    for (name, case) in named(meta, "cases") {
        if let Ok(text) = string(case, "greedy_text") {
            let ours = tokenizer.decode(&ids(case, "greedy_ids")?, true);
            out.push(Comparison::exact(&format!("{name}/{way}"), "greedy_text", ours.as_str(), text));
        }
    }
    Ok(())
}

/// Messages → prompt, in `chat_template`, `prompts` and the cases of `meta.json`.
fn renders(
    template: &ChatTemplate,
    golden: &Value,
    meta: &Value,
    out: &mut Vec<Comparison>,
) -> Result<(), Box<dyn Error>> {
    for (name, case) in named(golden, "chat_template") {
        let messages = case.get("messages").ok_or("a render without messages")?;
        let add_generation_prompt = case.get("add_generation_prompt") == Some(&Value::Bool(true));
        let mut arguments = Map::new();
        if let Some(thinking) = case.get("enable_thinking") {
            arguments.insert("enable_thinking".to_owned(), thinking.clone());
        }
        let ours = template.render(messages, add_generation_prompt, case.get("tools"), &arguments)?;
        out.push(Comparison::exact(&name, "rendered", ours.as_str(), string(case, "rendered")?));
    }
    for (name, case) in named(golden, "prompts") {
        if let Ok(rendered) = string(case, "rendered") {
            let messages = json!([{"role": "user", "content": string(case, "prompt")?}]);
            let arguments = Map::from_iter([("enable_thinking".to_owned(), Value::Bool(true))]);
            let ours = template.render(&messages, true, None, &arguments)?;
            out.push(Comparison::exact(&name, "rendered", ours.as_str(), rendered));
        }
    }
    for (name, case) in named(meta, "cases") {
        if let (Some(messages), Ok(prompt)) = (case.get("messages"), string(case, "prompt")) {
            let ours = template.render(messages, true, None, &Map::new())?;
            out.push(Comparison::exact(&name, "prompt", ours.as_str(), prompt));
        }
    }
    Ok(())
}

/// The cases under a key, with names: a list's are numbered.
fn named<'a>(golden: &'a Value, key: &str) -> Vec<(String, &'a Value)> {
    match golden.get(key) {
        Some(Value::Array(cases)) => {
            cases.iter().enumerate().map(|(index, case)| (format!("{key}[{index}]"), case)).collect()
        }
        Some(Value::Object(cases)) => cases.iter().map(|(name, case)| (name.clone(), case)).collect(),
        _ => Vec::new(),
    }
}

fn list<'a>(golden: &'a Value, key: &str) -> &'a [Value] {
    golden.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn string<'a>(case: &'a Value, key: &str) -> Result<&'a str, Box<dyn Error>> {
    Ok(case.get(key).and_then(Value::as_str).ok_or_else(|| format!("no string {key:?}"))?)
}

fn ids(case: &Value, key: &str) -> Result<Vec<u32>, Box<dyn Error>> {
    Ok(serde_json::from_value(case.get(key).cloned().unwrap_or_default())?)
}
