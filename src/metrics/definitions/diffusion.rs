//! Families of stages that make images by diffusion. They exist where the pipeline has such a stage.

use super::labels::{Label, MODEL_NAME, REPLICA, STAGE};
use super::{Definition, Kind, Namespace, Unit, buckets};

const PIPELINE: &[Label] = &[MODEL_NAME];
const PER_REPLICA: &[Label] = &[MODEL_NAME, STAGE, REPLICA];

/// `num_inference_steps`
pub const INFERENCE_STEPS: Definition = Definition {
    suffix: "num_inference_steps",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::INFERENCE_STEPS),
    help: "Denoising steps of a request.",
    unit: Unit::Steps,
    labels: PIPELINE,
    moves: "a diffusion stage is done with a request of at least one step",
};

/// `image_count_total`
pub const IMAGES: Definition = Definition {
    suffix: "image_count_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Images made.",
    unit: Unit::Images,
    labels: PIPELINE,
    moves: "a diffusion stage is done with a request",
};

/// `image_pixels`
pub const PIXELS: Definition = Definition {
    suffix: "image_pixels",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::PIXELS),
    help: "Pixels of an image, one sample an image.",
    unit: Unit::Pixels,
    labels: PIPELINE,
    moves: "a diffusion stage is done with a request",
};

/// `peak_memory_mb`
pub const PEAK_MEMORY: Definition = Definition {
    suffix: "peak_memory_mb",
    namespace: Namespace::Omni,
    kind: Kind::Gauge,
    help: "The most device memory that the last request needed, in MiB.",
    unit: Unit::Mebibytes,
    labels: &[MODEL_NAME, STAGE],
    moves: "a diffusion stage is done with a request and knows its memory",
};

/// `diffusion_exec_s`
pub const EXECUTION: Definition = Definition {
    suffix: "diffusion_exec_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds from the admission of a request to the diffusion engine to its raw images, waits and batching included.",
    unit: Unit::Seconds,
    labels: PER_REPLICA,
    moves: "a diffusion stage is done with a request",
};

/// `diffusion_exec_per_step_s`
pub const EXECUTION_PER_STEP: Definition = Definition {
    suffix: "diffusion_exec_per_step_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::FAST),
    help: "The same over the denoising steps of the request.",
    unit: Unit::Seconds,
    labels: PER_REPLICA,
    moves: "a diffusion stage is done with a request of at least one step",
};

/// `diffusion_preprocess_s`
pub const PREPROCESS: Definition = Definition {
    suffix: "diffusion_preprocess_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::FAST),
    help: "Seconds spent on preparing a request; 0 where there is nothing to prepare.",
    unit: Unit::Seconds,
    labels: PER_REPLICA,
    moves: "a diffusion stage is done with a request",
};

/// `diffusion_postprocess_s`
pub const POSTPROCESS: Definition = Definition {
    suffix: "diffusion_postprocess_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::FAST),
    help: "Seconds spent on making image files of the raw images of a request.",
    unit: Unit::Seconds,
    labels: PER_REPLICA,
    moves: "a diffusion stage is done with a request",
};

/// `vae_decode_s`
pub const VAE_DECODE: Definition = Definition {
    suffix: "vae_decode_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds that the image decoder took for a request.",
    unit: Unit::Seconds,
    labels: PER_REPLICA,
    moves: "a diffusion stage is done with a request and measured its parts",
};

/// `diffusion_forward_s`
pub const FORWARD: Definition = Definition {
    suffix: "diffusion_forward_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds that all denoising steps of a request took.",
    unit: Unit::Seconds,
    labels: PER_REPLICA,
    moves: "a diffusion stage is done with a request and measured its parts",
};

/// `diffusion_kv_load_s`
pub const KV_LOAD: Definition = Definition {
    suffix: "diffusion_kv_load_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::FAST),
    help: "Seconds spent on receiving keys and values of an earlier stage before the first denoising step.",
    unit: Unit::Seconds,
    labels: PER_REPLICA,
    moves: "a diffusion stage is done with a request that received some",
};

/// `denoise_step_latency_s`
pub const DENOISE_STEP: Definition = Definition {
    suffix: "denoise_step_latency_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::FAST),
    help: "Mean seconds of a denoising step of a request.",
    unit: Unit::Seconds,
    labels: PER_REPLICA,
    moves: "a diffusion stage is done with a request and measured its parts",
};

/// `image_ttfp_s`
pub const TIME_TO_FIRST_IMAGE: Definition = Definition {
    suffix: "image_ttfp_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds from handing a request to the stage to its first image.",
    unit: Unit::Seconds,
    labels: PER_REPLICA,
    moves: "a diffusion stage is done with a request that gave an image",
};

/// Every family of diffusion, in the order of `/metrics`.
pub const ALL: &[&Definition] = &[
    &INFERENCE_STEPS,
    &IMAGES,
    &PIXELS,
    &PEAK_MEMORY,
    &EXECUTION,
    &EXECUTION_PER_STEP,
    &PREPROCESS,
    &POSTPROCESS,
    &VAE_DECODE,
    &FORWARD,
    &KV_LOAD,
    &DENOISE_STEP,
    &TIME_TO_FIRST_IMAGE,
];
