//! `GET /stats`: how every replica is at this moment.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{self, CHAT};
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
    let server = ServerThread::start(&["--num-replicas", "2", "--served-model-name", "m"]);
    // A server is ready when every stage has a living replica, which need not be all of them.
    let all_up = |stats: &Value| {
        let mut stages = stats["stages"].as_array().unwrap().iter();
        stages.all(|stage| stage["replicas"].as_array().unwrap().iter().all(|replica| replica["up"] == true))
    };
    let before = wait_for(server.address, all_up);
    assert_eq!(before["model"], "m");
    let names: Vec<&Value> =
        before["stages"].as_array().unwrap().iter().map(|stage| &stage["name"]).collect();
    assert_eq!(names, ["thinker", "talker", "code2wav"]);
    for stage in before["stages"].as_array().unwrap() {
        for (index, replica) in stage["replicas"].as_array().unwrap().iter().enumerate() {
            assert_eq!(replica["replica"], index);
            assert_eq!(replica["last_error"], Value::Null);
            assert_eq!((&replica["in_flight"], &replica["queue_depth"]), (&json!(0), &json!(0)));
        }
    }

    let long = json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 100_000_000_u64});
    assert_eq!(client::post(server.address, CHAT, &long).status, 400, "more than the model takes");
    let long = json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 400, "ignore_eos": true,
                      "stream": true});
    let connection = client::begin(server.address, CHAT, &long);
    let busy = |stats: &Value| {
        let replicas = stats["stages"][0]["replicas"].as_array().unwrap();
        replicas.iter().any(|replica| replica["running"] == 1 && replica["in_flight"] == 1)
    };
    let seen = wait_for(server.address, busy);
    let replicas = seen["stages"][0]["replicas"].as_array().unwrap();
    let replica = replicas.iter().find(|replica| replica["running"] == 1).unwrap();
    assert!(replica["kv_cache_usage"].as_f64().unwrap() > 0.0 && replica["steps"].as_u64().unwrap() > 0);
    assert_eq!(connection.finish().unwrap().status, 200);
    let idle = |stats: &Value| {
        stats["stages"][0]["replicas"].as_array().unwrap().iter().all(|replica| {
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
