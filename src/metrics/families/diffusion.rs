//! Handles to the families of diffusion, and the series of one replica that makes images.

use prometheus::{Counter, Gauge, Histogram};

use super::steps::observe_measured;
use crate::metrics::definitions::diffusion;
use crate::metrics::families::{Catalogue, Family, ReplicaLabels};
use crate::metrics::{DiffusedRequest, MetricsError};

/// Bytes of a MiB.
const MEBIBYTE: f64 = 1_048_576.0;

/// The families of stages that make images.
#[derive(Debug)]
pub struct DiffusionFamilies {
    /// Denoising steps of a request, of all stages.
    steps: Histogram,
    /// Images made, in all stages.
    images: Counter,
    /// Pixels of an image, of all stages.
    pixels: Histogram,
    /// The most memory that the last request of a stage needed.
    peak_memory: Family<Gauge>,
    /// Where requests spend their time.
    times: DiffusionTimes<Family<Histogram>>,
}

/// The series that a request moves which one replica is done with.
#[derive(Debug)]
pub struct DiffusionSeries {
    steps: Histogram,
    images: Counter,
    pixels: Histogram,
    /// The stage's.
    peak_memory: Gauge,
    times: DiffusionTimes<Histogram>,
}

/// Where requests spend their time: families if `H` is a family, the series of one replica if it is a histogram.
#[derive(Debug)]
struct DiffusionTimes<H> {
    /// Seconds from admission to the raw images.
    execution: H,
    /// The same over the steps.
    execution_per_step: H,
    /// Seconds of preparation.
    preprocess: H,
    /// Seconds of making image files.
    postprocess: H,
    /// Seconds of the image decoder.
    vae_decode: H,
    /// Seconds of all denoising steps.
    forward: H,
    /// Seconds of receiving keys and values.
    kv_load: H,
    /// Mean seconds of a denoising step.
    denoise_step: H,
    /// Seconds to the first image.
    first_image: H,
}

impl DiffusionFamilies {
    /// Registers the families of [`diffusion::ALL`].
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        Ok(Self {
            steps: catalogue.register(&diffusion::INFERENCE_STEPS)?.series(&[])?,
            images: catalogue.register(&diffusion::IMAGES)?.series(&[])?,
            pixels: catalogue.register(&diffusion::PIXELS)?.series(&[])?,
            peak_memory: catalogue.register(&diffusion::PEAK_MEMORY)?,
            times: DiffusionTimes {
                execution: catalogue.register(&diffusion::EXECUTION)?,
                execution_per_step: catalogue.register(&diffusion::EXECUTION_PER_STEP)?,
                preprocess: catalogue.register(&diffusion::PREPROCESS)?,
                postprocess: catalogue.register(&diffusion::POSTPROCESS)?,
                vae_decode: catalogue.register(&diffusion::VAE_DECODE)?,
                forward: catalogue.register(&diffusion::FORWARD)?,
                kv_load: catalogue.register(&diffusion::KV_LOAD)?,
                denoise_step: catalogue.register(&diffusion::DENOISE_STEP)?,
                first_image: catalogue.register(&diffusion::TIME_TO_FIRST_IMAGE)?,
            },
        })
    }

    /// The series of a replica, at zero if it had none.
    pub fn series(&self, replica: &ReplicaLabels) -> Result<DiffusionSeries, MetricsError> {
        let [stage, _] = replica.values();
        let series = |family: &Family<Histogram>| family.series(&replica.values());
        Ok(DiffusionSeries {
            steps: self.steps.clone(),
            images: self.images.clone(),
            pixels: self.pixels.clone(),
            peak_memory: self.peak_memory.series(&[stage])?,
            times: DiffusionTimes {
                execution: series(&self.times.execution)?,
                execution_per_step: series(&self.times.execution_per_step)?,
                preprocess: series(&self.times.preprocess)?,
                postprocess: series(&self.times.postprocess)?,
                vae_decode: series(&self.times.vae_decode)?,
                forward: series(&self.times.forward)?,
                kv_load: series(&self.times.kv_load)?,
                denoise_step: series(&self.times.denoise_step)?,
                first_image: series(&self.times.first_image)?,
            },
        })
    }
}

impl DiffusionSeries {
    /// Takes in a request that the replica is done with.
    pub fn observe(&self, request: &DiffusedRequest) {
        let times = &self.times;
        self.images.inc_by(request.images as f64);
        for _ in 0..request.images {
            self.pixels.observe(request.pixels as f64);
        }
        observe_measured(&times.execution, request.execution_seconds);
        observe_measured(&times.preprocess, request.preprocess_seconds);
        observe_measured(&times.postprocess, request.postprocess_seconds);
        for (histogram, seconds) in [
            (&times.vae_decode, request.vae_decode_seconds),
            (&times.forward, request.forward_seconds),
            (&times.kv_load, request.kv_load_seconds),
            (&times.first_image, request.first_image_seconds),
        ] {
            if let Some(seconds) = seconds {
                observe_measured(histogram, seconds);
            }
        }
        if request.steps > 0 {
            let steps = request.steps as f64;
            self.steps.observe(steps);
            observe_measured(&times.execution_per_step, request.execution_seconds / steps);
            if let Some(seconds) = request.forward_seconds {
                observe_measured(&times.denoise_step, seconds / steps);
            }
        }
        if let Some(bytes) = request.peak_memory_bytes {
            self.peak_memory.set(bytes as f64 / MEBIBYTE);
        }
    }
}
