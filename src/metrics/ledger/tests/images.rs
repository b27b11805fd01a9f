//! Stages that make images.

use super::*;

#[test]
fn a_pipeline_of_diffusion_alone_shows_its_families_and_no_engine_family() {
    let mut ledger = ledger_of(true, vec![painter(0, 1)]);
    let stats = ReplicaStats { diffusion: vec![diffused()], ..Default::default() };
    apply(&mut ledger, [StatEvent::Replica(Box::new(report(key(0, 0, 0), 1, stats)))]);
    let page = page(&ledger);
    for (name, value) in [
        ("image_count_total", 2.0),
        ("num_inference_steps_sum", 8.0),
        ("image_pixels_count", 2.0),
        ("image_pixels_sum", 2_097_152.0),
        ("peak_memory_mb", 3072.0),
        ("diffusion_exec_s_sum", 4.0),
        ("diffusion_exec_per_step_s_sum", 0.5),
        ("denoise_step_latency_s_sum", 0.25),
        ("image_ttfp_s_sum", 4.5),
    ] {
        assert_eq!(page.value(&format!("vllm:omni_{name}"), &[]), value, "{name}");
    }
    let engine = definitions::all().filter(|family| family.namespace == definitions::Namespace::Engine);
    for definition in engine {
        assert!(!page.helps.contains_key(&definition.name("")), "{}", definition.suffix);
    }
}

#[test]
fn what_was_not_measured_of_an_image_is_no_sample() {
    let mut ledger = ledger_of(true, vec![painter(0, 1)]);
    let bare = DiffusedRequest { images: 1, pixels: 1 << 18, ..DiffusedRequest::default() };
    let stats = ReplicaStats { diffusion: vec![bare], ..Default::default() };
    apply(&mut ledger, [StatEvent::Replica(Box::new(report(key(0, 0, 0), 1, stats)))]);
    let page = page(&ledger);
    for (name, count) in [
        ("diffusion_exec_s", 1.0),
        ("num_inference_steps", 0.0),
        ("diffusion_exec_per_step_s", 0.0),
        ("vae_decode_s", 0.0),
        ("denoise_step_latency_s", 0.0),
        ("image_ttfp_s", 0.0),
    ] {
        assert_eq!(page.value(&format!("vllm:omni_{name}_count"), &[]), count, "{name}");
    }
}

#[test]
fn a_pipeline_without_engines_shows_no_engine_family() {
    let mut ledger = ledger_of(true, vec![stage(0, 1, None)]);
    apply(&mut ledger, everything());
    let page = page(&ledger);
    let engine =
        |name: &str| name.starts_with("vllm:") && !name.starts_with(definitions::DEFAULT_OMNI_PREFIX);
    assert!(page.families.iter().all(|(name, _)| !engine(name)), "{:?}", page.families);
}
