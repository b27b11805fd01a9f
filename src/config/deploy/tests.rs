use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::config::Source;

/// A model of three stages.
fn model() -> Deploy {
    let stages =
        [("thinker", StageKind::Llm), ("talker", StageKind::Talker), ("code2wav", StageKind::Vocoder)];
    Deploy::new("qwen3_omni_moe", stages.map(|(name, kind)| StageDeploy::new(name, kind)).into())
}

/// Deploy files in a directory.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// What comes of a file, overrides and options.
fn resolved(
    text: &str,
    overrides: &str,
    options: DeployOptions,
    server: ServerDevice,
) -> Result<(Deploy, Vec<String>), String> {
    let mut notes = Notes::default();
    let files = Files::new(&[("deploy.yaml", text)]);
    let name = files.path("deploy.yaml").display().to_string();
    let short = |error: DeployError| error.to_string().replace(&name, "deploy.yaml");
    let layers = DeployLayers {
        file: Layer::from_file(&files.path("deploy.yaml"), &mut notes).map_err(short)?,
        overrides: Layer::from_overrides(overrides, &mut notes).map_err(short)?,
        options,
    };
    let built_in = match layers.pipeline().map_err(short)? {
        PipelineChoice::Custom => Deploy::new(CUSTOM_PIPELINE, Vec::new()),
        _ => model(),
    };
    let deploy = resolve(built_in, &layers, server, &mut notes).map_err(short)?;
    Ok((deploy, notes.lines().iter().map(|note| note.replace(&name, "deploy.yaml")).collect()))
}

const CPU: ServerDevice = ServerDevice { gpu: None, asked: false };

fn of_file(text: &str) -> Result<Deploy, String> {
    resolved(text, "{}", DeployOptions::default(), CPU).map(|(deploy, _)| deploy)
}

fn replicas(deploy: &Deploy) -> Vec<u16> {
    deploy.stages.iter().map(|stage| stage.num_replicas).collect()
}

const THREE: &str = "stages:\n- {stage_id: 0}\n- {stage_id: 1, num_replicas: 2}\n- {stage_id: 2}\n";

#[test]
fn the_command_line_wins_over_the_file_and_overrides_win_over_both() {
    assert_eq!(replicas(&of_file(THREE).unwrap()), [1, 2, 1]);
    let options = DeployOptions { num_replicas: Some(3), ..DeployOptions::default() };
    let overrides = r#"{"1": {"num_replicas": 4}}"#;
    let (deploy, _) = resolved(THREE, "{}", options, CPU).unwrap();
    assert_eq!(replicas(&deploy), [3, 3, 3]);
    let (deploy, _) = resolved(THREE, overrides, options, CPU).unwrap();
    assert_eq!(replicas(&deploy), [3, 4, 3]);
    assert_eq!(*deploy.stages[0].sources.of("num_replicas"), Source::Option("--num-replicas"));
    assert_eq!(deploy.stages[1].sources.of("num_replicas").to_string(), "--stage-overrides 1.num_replicas");
}

#[test]
fn a_file_builds_on_another_key_by_key() {
    let files = Files::new(&[
        (
            "base.yaml",
            "async_chunk: false\nconnectors: {link: {name: serialized, extra: {codec_chunk_frames: 10}}}\n\
             stages:\n- {stage_id: 0, max_num_seqs: 8}\n- {stage_id: 1, default_sampling_params: {top_k: 5, seed: 1}}\n\
             - {stage_id: 2, input_connectors: {from_stage_1: link}}\n",
        ),
        (
            "deploy.yaml",
            "base_config: base.yaml\nconnectors: {link: {extra: {initial_codec_chunk_frames: 2}}}\n\
             stages:\n- {stage_id: 1, default_sampling_params: {top_k: 7}}\n",
        ),
    ]);
    let mut notes = Notes::default();
    let file = Layer::from_file(&files.path("deploy.yaml"), &mut notes).unwrap();
    let layers = DeployLayers { file, ..DeployLayers::default() };
    let deploy = resolve(model(), &layers, CPU, &mut notes).unwrap();
    assert!(!deploy.async_chunk && !deploy.stages[1].input.async_chunk);
    assert_eq!(deploy.stages[0].scheduler.max_num_seqs, 8);
    assert_eq!((deploy.stages[1].sampling.top_k, deploy.stages[1].sampling.seed), (7, Some(1)));
    let edge = deploy.stages[2].input;
    assert_eq!(
        (edge.connector, edge.codec.initial_frames, edge.codec.chunk_frames),
        (Connector::Serialized, 2, 10)
    );
}

#[test]
fn files_that_build_on_each_other_in_a_circle_are_refused() {
    let files =
        Files::new(&[("a.yaml", "base_config: b.yaml\n"), ("b.yaml", "# on\nbase_config: ./a.yaml\n")]);
    let error = Layer::from_file(&files.path("a.yaml"), &mut Notes::default()).unwrap_err();
    assert!(
        matches!(&error, DeployError::Inconsistent { fault, .. } if matches!(**fault, Fault::BaseCycle { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("b.yaml:2: base_config leads back"), "{error}");
}

#[test]
fn keys_in_blocks_are_the_stages_own() {
    let text = "stages:\n- stage_id: 0\n  engine_args: {max_num_seqs: 5, moe_backend: triton}\n  runtime: {num_replicas: 2, env: {A: b}}\n\
                - stage_id: 1\n- stage_id: 2\n";
    let (deploy, notes) = resolved(text, "{}", DeployOptions::default(), CPU).unwrap();
    assert_eq!((deploy.stages[0].scheduler.max_num_seqs, deploy.stages[0].num_replicas), (5, 2));
    let named: Vec<_> = notes.iter().map(|note| note.split(" has no effect").next().unwrap()).collect();
    assert_eq!(named, ["deploy.yaml:3: key \"moe_backend\"", "deploy.yaml:4: key \"env\""]);
}

#[test]
fn custom_stages_stand_in_the_row_where_their_id_is() {
    let text = "stages:\n- {stage_id: 0}\n- {stage_id: 1, custom_stage: between, settings: {a: [1, x]}}\n- {stage_id: 2}\n\
                - {stage_id: 3}\n- {stage_id: 4, custom_stage: after, input_connectors: {from_stage_3: serialized}}\n";
    let deploy = of_file(text).unwrap();
    let names: Vec<_> = deploy.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["thinker", "between", "talker", "code2wav", "after"]);
    assert_eq!(deploy.stages[1].kind, StageKind::Custom { settings: serde_json::json!({"a": [1, "x"]}) });
    assert_eq!(deploy.stages[4].input.connector, Connector::Serialized);
    assert!(deploy.check_custom_stages(&["after", "between"]).is_ok());
    let error = deploy.check_custom_stages(&["between"]).unwrap_err().to_string();
    assert!(error.ends_with("custom stage \"after\" is not registered; registered are between"), "{error}");
}

#[test]
fn a_pipeline_of_custom_stages_alone_needs_no_model() {
    let deploy = of_file("pipeline: custom\nstages:\n- {stage_id: 0, custom_stage: echo}\n").unwrap();
    assert_eq!((deploy.pipeline.as_str(), deploy.stages.len()), (CUSTOM_PIPELINE, 1));
    assert!(of_file("pipeline: custom\nstages:\n- {stage_id: 0}\n").unwrap_err().contains("has no stage 0"));
}

#[test]
fn an_edge_waits_when_either_end_says_so() {
    let said = |talker: &str, vocoder: &str| {
        let text =
            format!("stages:\n- {{stage_id: 0}}\n- {{stage_id: 1{talker}}}\n- {{stage_id: 2{vocoder}}}\n");
        let deploy = of_file(&text)?;
        Ok::<_, String>((deploy.stages[1].input.async_chunk, deploy.stages[2].input.async_chunk))
    };
    assert_eq!(said("", ""), Ok((true, true)));
    assert_eq!(said("", ", async_chunk: false"), Ok((true, false)));
    assert_eq!(said(", async_chunk: false", ""), Ok((false, false)));
    assert!(said(", async_chunk: false", ", async_chunk: true").is_err());
}

#[test]
fn edges_that_a_file_lists_are_those_of_the_row() {
    let edges = |list: &str| of_file(&format!("edges: [{list}]\n")).map(|_| ());
    assert_eq!(edges("{from: 0, to: 1}, {from: 1, to: 2, max_inflight: 3}"), Ok(()));
    assert!(edges("{from: 0, to: 2}").unwrap_err().contains("stage 2 is fed by stage 1"));
    assert!(edges("{from: 2, to: 3}").unwrap_err().contains("no stage 3"));
    assert!(edges("{from: 1}").unwrap_err().starts_with("deploy.yaml:1: an edge has"));
    assert!(edges("{from: 1, to: 1}").unwrap_err().contains("makes a cycle"));
}

#[test]
fn gpu_indices_place_the_thinker_when_the_server_uses_a_gpu() {
    let text = "stages:\n- {stage_id: 0, devices: \"0\"}\n- {stage_id: 1, devices: \"1\"}\n- {stage_id: 2, devices: 1}\n\
                platforms: {cuda: {stages: [{stage_id: 0, max_num_seqs: 9}]}}\n";
    let gpu = ServerDevice { gpu: Some(0), asked: true };
    let (deploy, notes) = resolved(text, "{}", DeployOptions::default(), gpu).unwrap();
    let devices: Vec<_> = deploy.stages.iter().map(|stage| stage.device).collect();
    assert_eq!(devices, [Placement::Cuda(0), Placement::Cpu, Placement::Cpu]);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!(deploy.stages[0].scheduler.max_num_seqs, 9, "the overlay of the platform holds");
    let (deploy, notes) = resolved(text, "{}", DeployOptions::default(), CPU).unwrap();
    assert!(deploy.stages.iter().all(|stage| stage.device == Placement::Cpu));
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!(deploy.stages[0].scheduler.max_num_seqs, 64, "the overlay of the platform does not hold");
}

#[test]
fn a_device_on_the_command_line_wins_over_the_file() {
    let text = "stages:\n- {stage_id: 0, devices: \"cuda:1\"}\n- {stage_id: 1}\n- {stage_id: 2}\n";
    let asked = ServerDevice { gpu: None, asked: true };
    let (deploy, notes) = resolved(text, "{}", DeployOptions::default(), asked).unwrap();
    assert_eq!(deploy.stages[0].device, Placement::Cpu);
    assert_eq!(notes, ["deploy.yaml:2: --device on the command line wins over this key"]);
}

#[test]
fn what_is_written_out_is_read_back_the_same() {
    let text = "async_chunk: false\nconnectors: {a: {name: serialized, extra: {codec_left_context_frames: 3}}}\nstages:\n\
                - stage_id: 0\n  default_sampling_params: {stop: [\"a\\n\\\"b\", \"#c\"], seed: 18446744073709551615, temperature: 0.1}\n\
                - {stage_id: 1, async_chunk: true, subtalker_sampling_params: {do_sample: false}}\n\
                - {stage_id: 2, input_connectors: {from_stage_1: a}}\n\
                - {stage_id: 3, custom_stage: \"my stage\", settings: {x: null, y: [1.5, \"z\"]}, max_model_len: 9}\n";
    let deploy = of_file(text).unwrap();
    let again = of_file(&deploy.to_yaml()).unwrap_or_else(|error| panic!("{error} in\n{}", deploy.to_yaml()));
    assert_eq!(without_sources(again), without_sources(deploy));
}

fn without_sources(mut deploy: Deploy) -> Deploy {
    deploy.sources = Default::default();
    deploy.stages.iter_mut().for_each(|stage| stage.sources = Default::default());
    deploy
}
