//! Models by name: from a hub on loopback into the cache, and out of the cache without the hub.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::checkpoint_copy::{CheckpointCopy, WEIGHTS, original};
use crate::client::{self, CHAT};
use crate::hub::{COMMIT, Hub, HubRequest, Mischief, OLD_NAME, REPOSITORY};
use crate::server::{ServerProcess, serve_in_vain, serve_until};

/// A directory for `HF_HOME`.
fn home() -> (TempDir, String) {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().to_str().expect("a path in UTF-8").to_owned();
    (home, path)
}

/// The repository in the cache.
fn repository(home: &Path) -> PathBuf {
    home.join("hub").join("models--golden--tiny")
}

/// Asks for a few words, which the model must give.
fn assert_serves(server: &ServerProcess) {
    assert_serves_as(server, REPOSITORY);
}

/// The same of a model that goes by this name.
fn assert_serves_as(server: &ServerProcess, name: &str) {
    let models = client::get(server.address, "/v1/models").json();
    assert_eq!(models["data"][0]["id"], name, "{models}");
    let body =
        json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "ignore_eos": true});
    let reply = client::post(server.address, CHAT, &body).json();
    assert_eq!(reply["usage"]["completion_tokens"], 3, "{reply}");
}

/// Serves the repository in vain; gives the last line, which is the error.
fn refusal(hub: &Hub, home: &str, arguments: &[&str]) -> String {
    let (status, lines) = serve_in_vain(&[&[REPOSITORY], arguments].concat(), &hub.environment(home));
    assert_eq!(status, Some(1), "{lines:#?}");
    let errors: Vec<&String> = lines.iter().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{lines:#?}");
    lines.last().expect("a line").clone()
}

/// The requests for the weights themselves.
fn for_weights(requests: &[HubRequest]) -> Vec<&HubRequest> {
    requests
        .iter()
        .filter(|request| request.path.ends_with(".safetensors") && request.path.matches('/').count() == 1)
        .collect()
}

#[test]
fn a_model_is_downloaded_once_and_then_served_without_a_request() {
    let checkpoint = CheckpointCopy::new();
    let shards = checkpoint.split_weights();
    let hub = Hub::start(Path::new(checkpoint.path()));
    let (directory, home) = home();
    let mut environment = hub.environment(&home);
    environment.push(("HF_TOKEN", "hf_secret"));

    let server = ServerProcess::start_in(&[REPOSITORY, "--log-level", "trace"], &environment);
    assert_serves(&server);
    let log = server.startup_log.concat();
    assert!(log.contains(COMMIT), "{log}");
    assert!(!log.contains("hf_secret"), "{log}");
    drop(server);

    let requests = hub.requests();
    for unneeded in ["README", ".bin", "original", "evil"] {
        assert!(!requests.iter().any(|request| request.path.contains(unneeded)), "{requests:#?}");
    }
    let weights = for_weights(&requests);
    assert_eq!(weights.len(), shards.len(), "{requests:#?}");
    for request in &requests {
        let redirected = weights.iter().any(|weights| weights.path == request.path);
        let expected = (!redirected).then_some("Bearer hf_secret");
        assert_eq!(request.authorization.as_deref(), expected, "{request:?}");
    }

    let repository = repository(directory.path());
    assert_eq!(fs::read_to_string(repository.join("refs/main")).expect("a reference"), COMMIT);
    let link = repository.join("snapshots").join(COMMIT).join(shards[0]);
    assert!(fs::read_link(&link).expect("a link").starts_with("../../blobs"));
    assert_eq!(fs::read(&link).expect("the shard"), checkpoint.read(shards[0]));
    let blobs = fs::read_dir(repository.join("blobs")).expect("the contents");
    let unfinished = |name: &str| name.ends_with(".incomplete");
    assert!(!blobs.flatten().any(|blob| unfinished(&blob.file_name().to_string_lossy())));

    for revision in [None, Some("main"), Some(COMMIT)] {
        let revision = revision.map_or(vec![], |revision| vec!["--revision", revision]);
        assert_serves(&ServerProcess::start_in(&[&[REPOSITORY], &*revision].concat(), &environment));
    }
    assert_eq!(hub.requests().len(), 0);
}

#[test]
fn a_repository_is_found_under_its_old_name() {
    let hub = Hub::start(&original());
    let (_directory, home) = home();
    assert_serves_as(&ServerProcess::start_in(&[OLD_NAME], &hub.environment(&home)), OLD_NAME);
}

#[test]
fn weights_that_are_not_wanted_are_not_downloaded() {
    let hub = Hub::start(&original());
    let (_directory, home) = home();
    let arguments = [REPOSITORY, "--load-format", "dummy"];
    assert_serves(&ServerProcess::start_in(&arguments, &hub.environment(&home)));
    assert!(!hub.requests().iter().any(|request| request.path.contains(WEIGHTS)));
}

#[test]
fn a_model_that_is_not_served_is_refused_before_its_weights_come() {
    let checkpoint = CheckpointCopy::new();
    checkpoint.write("config.json", r#"{"model_type": "perceptron"}"#);
    let hub = Hub::start(Path::new(checkpoint.path()));
    let (_directory, home) = home();
    let error = refusal(&hub, &home, &[]);
    assert!(error.contains("perceptron"), "{error}");
    assert!(!hub.requests().iter().any(|request| request.path.contains(WEIGHTS)));
}

#[test]
fn a_cache_that_was_laid_out_by_others_serves_offline() {
    let (directory, home) = home();
    let environment =
        [("HF_HOME", home.as_str()), ("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:9")];
    let repository = repository(directory.path());
    let offline = |missing: &str| {
        let (status, lines) = serve_in_vain(&[REPOSITORY], &environment);
        assert_eq!(status, Some(1), "{lines:#?}");
        let error = lines.last().expect("a line");
        for part in ["error: HF_HUB_OFFLINE", REPOSITORY, "revision main", missing] {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
    };
    offline("models--golden--tiny/refs/main does not exist");

    let snapshot = repository.join("snapshots").join(COMMIT);
    for directory in [repository.join("refs"), repository.join("blobs"), snapshot.clone()] {
        fs::create_dir_all(directory).expect("a directory");
    }
    fs::write(repository.join("refs/main"), COMMIT).expect("a file");
    for (number, file) in fs::read_dir(original()).expect("the checkpoint").enumerate() {
        let file = file.expect("a file");
        let blob = number.to_string();
        fs::copy(file.path(), repository.join("blobs").join(&blob)).expect("a copy");
        symlink(Path::new("../../blobs").join(blob), snapshot.join(file.file_name())).expect("a link");
    }
    assert_serves(&ServerProcess::start_in(&[REPOSITORY], &environment));

    fs::remove_file(snapshot.join(WEIGHTS)).expect("the link is there");
    offline("model.safetensors does not exist");
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let hub = Hub::start(&original());
    let (_directory, home) = home();
    hub.misbehave(Mischief { break_off: Some(1_000_000), ..Mischief::default() });
    assert_serves(&ServerProcess::start_in(&[REPOSITORY], &hub.environment(&home)));
    let requests = hub.requests();
    let ranges: Vec<_> = for_weights(&requests).iter().map(|request| request.range.clone()).collect();
    assert_eq!(ranges, [None, Some("bytes=1000000-".to_owned())]);
}

#[test]
fn a_download_that_a_signal_ends_goes_on_at_the_next_start() {
    let hub = Hub::start(&original());
    let (directory, home) = home();
    hub.misbehave(Mischief { stall: Some(1_000_000), ..Mischief::default() });
    let received = || {
        let blobs = fs::read_dir(repository(directory.path()).join("blobs")).into_iter().flatten().flatten();
        let length = |blob: fs::DirEntry| blob.metadata().map_or(0, |metadata| metadata.len());
        blobs.map(length).max() == Some(1_000_000)
    };
    assert!(serve_until(received, "TERM", &[REPOSITORY], &hub.environment(&home)).success());
    hub.requests();

    assert_serves(&ServerProcess::start_in(&[REPOSITORY], &hub.environment(&home)));
    let requests = hub.requests();
    let ranges: Vec<_> = for_weights(&requests).iter().map(|request| request.range.clone()).collect();
    assert_eq!(ranges, [Some("bytes=1000000-".to_owned())]);
}

#[test]
fn spoilt_weights_are_noticed_and_not_kept() {
    let hub = Hub::start(&original());
    let (directory, home) = home();
    hub.misbehave(Mischief { spoil: true, ..Mischief::default() });
    let error = refusal(&hub, &home, &[]);
    assert!(error.contains(WEIGHTS) && error.contains("SHA-256"), "{error}");
    assert!(!repository(directory.path()).join("snapshots").join(COMMIT).join(WEIGHTS).exists());

    hub.misbehave(Mischief::default());
    assert_serves(&ServerProcess::start_in(&[REPOSITORY], &hub.environment(&home)));
}

#[test]
fn a_spoilt_beginning_is_fetched_anew() {
    let hub = Hub::start(&original());
    let (directory, home) = home();
    let sum = fs::read(original().join(WEIGHTS)).map(|bytes| crate::hub::sha256(&bytes)).expect("weights");
    let blobs = repository(directory.path()).join("blobs");
    fs::create_dir_all(&blobs).expect("a directory");
    fs::write(blobs.join(format!("{sum}.incomplete")), "something else").expect("a file");
    assert_serves(&ServerProcess::start_in(&[REPOSITORY], &hub.environment(&home)));
    assert_eq!(for_weights(&hub.requests()).len(), 2);
}

#[test]
fn a_hub_that_gives_no_parts_is_asked_for_the_whole() {
    let hub = Hub::start(&original());
    let (_directory, home) = home();
    hub.misbehave(Mischief { break_off: Some(1_000_000), ignore_ranges: true, ..Mischief::default() });
    assert_serves(&ServerProcess::start_in(&[REPOSITORY], &hub.environment(&home)));
}

#[test]
fn what_the_hub_does_not_give_is_one_line() {
    let hub = Hub::start(&original());
    let (_directory, home) = home();
    let cases: [(u16, &str, &[&str]); 5] = [
        (404, "RepoNotFound", &["no directory golden/tiny here", "no such repository"]),
        (404, "", &["no directory golden/tiny here", "no such repository"]),
        (401, "", &["401", "set HF_TOKEN"]),
        (403, "GatedRepo", &["403", "accept its terms at", "golden/tiny"]),
        (418, "", &["/api/models/golden/tiny/revision/main", "418"]),
    ];
    for (status, code, parts) in cases {
        hub.misbehave(Mischief { refusal: Some((status, code)), ..Mischief::default() });
        let error = refusal(&hub, &home, &[]);
        for part in parts {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
    }
    hub.misbehave(Mischief::default());
    let error = refusal(&hub, &home, &["--revision", "v9"]);
    assert!(error.contains("golden/tiny has no revision \"v9\""), "{error}");
}

#[test]
fn a_hub_that_cannot_be_reached_is_named_with_what_the_cache_lacks() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let endpoint = format!("http://{closed}");
    let (_directory, home) = home();
    let environment = [("HF_HOME", home.as_str()), ("HF_ENDPOINT", &endpoint), ("NO_PROXY", "127.0.0.1")];
    let (status, lines) = serve_in_vain(&[REPOSITORY], &environment);
    assert_eq!(status, Some(1), "{lines:#?}");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for part in [&format!("{endpoint} cannot be reached"), REPOSITORY, "refs/main does not exist"] {
        assert!(lines[0].contains(part), "no {part:?} in {}", lines[0]);
    }
}
