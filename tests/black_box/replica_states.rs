//! `GET /stats`: how every replica is at this moment.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{self, CHAT};
use crate::gate::Gate;
use crate::server::{ServerProcess, ServerThread};

fn stats(server: std::net::SocketAddr) -> Value {
    let reply = client::get(server, "/stats");
    assert_eq!(reply.status, 200);
    reply.json()
}

/// Asks again and again until the answer is as it should be.
fn wait_for(server: std::net::SocketAddr, is_so: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let stats = stats(server);
        if is_so(&stats) {
            return stats;
        }
        assert!(Instant::now() < until, "{stats:#}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn every_replica_says_what_it_holds_and_how_far_it_is() {
    let (gate, registry) = Gate::before("thinker");
    let server = ServerThread::start_with(registry, &["--num-replicas", "2", "--served-model-name", "m"]);
    // A server is ready when every stage has a living replica, which need not be all of them.
    let all_up = |stats: &Value| {
        let mut stages = stats["stages"].as_array().expect("a list").iter();
        stages.all(|stage| {
            stage["replicas"].as_array().expect("a list").iter().all(|replica| replica["up"] == true)
        })
    };
    let before = wait_for(server.address, all_up);
    assert_eq!(before["model"], "m");
    let names: Vec<&Value> =
        before["stages"].as_array().expect("a list").iter().map(|stage| &stage["name"]).collect();
    assert_eq!(names, ["thinker", "talker", "code2wav"]);
    for stage in before["stages"].as_array().expect("a list") {
        for (index, replica) in stage["replicas"].as_array().expect("a list").iter().enumerate() {
            assert_eq!(replica["replica"], index);
            assert_eq!(replica["last_error"], Value::Null);
            assert_eq!((&replica["in_flight"], &replica["queue_depth"]), (&json!(0), &json!(0)));
        }
    }

    let long = json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 100_000_000_u64});
    assert_eq!(client::post(server.address, CHAT, &long).status, 400, "more than the model takes");
    let question =
        json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9, "ignore_eos": true});
    let connection = client::begin(server.address, CHAT, &question);
    let busy = |stats: &Value, depth: u64, running: u64| {
        let replicas = stats["stages"][0]["replicas"].as_array().expect("a list");
        let mut busy = replicas.iter().filter(|replica| replica["in_flight"] == 1);
        busy.find(|replica| replica["queue_depth"] == depth && replica["running"] == running).cloned()
    };
    let waiting = wait_for(server.address, |stats| busy(stats, 1, 0).is_some());
    let waiting = busy(&waiting, 1, 0).expect("one that waits");
    assert_eq!((&waiting["kv_cache_usage"], &waiting["steps"]), (&json!(0.0), &json!(0)));
    gate.let_through(4);
    let working = |stats: &Value| busy(stats, 0, 1).filter(|replica| replica["steps"].as_u64() >= Some(1));
    let stats = wait_for(server.address, |stats| working(stats).is_some());
    assert!(working(&stats).expect("one that works")["kv_cache_usage"].as_f64().expect("a number") > 0.0);
    gate.open();
    assert_eq!(connection.finish().expect("a whole response").status, 200);
    let idle = |stats: &Value| {
        stats["stages"][0]["replicas"].as_array().expect("a list").iter().all(|replica| {
            replica["in_flight"] == 0 && replica["running"] == 0 && replica["kv_cache_usage"] == 0.0
        })
    };
    let after = wait_for(server.address, idle);
    assert_eq!(after["stages"][2]["replicas"][0]["steps"], 0, "nothing was spoken");
}

#[test]
fn the_states_are_there_without_a_key_and_take_get_alone() {
    let server = ServerProcess::start(&["--api-key", "secret"]);
    assert_eq!(client::get(server.address, "/stats").status, 200);
    assert_eq!(client::post(server.address, "/stats", &json!({})).status, 405);
}
