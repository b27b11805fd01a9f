//! A device that adds up what a model would take of another one, and computes nothing.
//!
//! A model that is loaded on it, with its workspaces and caches, says to the byte what it needs before anything is
//! taken: the same code runs as on the device itself, and no weight is read for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cpu::Plain;
use super::cuda::{self, CudaBatch, CudaCache, CudaSampling};
use super::device_steps::{ChainedRow, CountedToken, DeviceSteps, Selection};
use super::{
    AttentionShape, Backend, BatchLimits, Convolution, DeviceError, ExpertInput, InputRows, KvShape,
    RotarySpec, RouteSpec, StepBatch, Weight, Windows,
};

/// Words of a row in the description of a step, in the memory of the process.
const BATCH_WORDS: usize = 8;
/// Words of a pair (row, choice) in what routing writes.
const ROUTING_WORDS: usize = 4;

/// What is to be outlined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlined {
    /// The memory of the process: weights stay where they lie, activations are f32.
    Process,
    /// A GPU with activations of a type.
    Gpu(cuda::Stored),
}

/// Bytes that were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outlay {
    /// Weights in memory of their own.
    pub weights: u64,
    /// Weights that stay in files.
    pub in_files: u64,
    /// Activations, tables, descriptions of steps.
    pub buffers: u64,
    /// KV caches.
    pub caches: u64,
}

/// A device that only adds up.
#[derive(Debug, Clone)]
pub struct Outline {
    /// The device that it stands for.
    outlined: Outlined,
    tally: Arc<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    weights: AtomicU64,
    in_files: AtomicU64,
    buffers: AtomicU64,
    caches: AtomicU64,
}

impl Outline {
    /// Nothing is taken yet.
    pub fn of(outlined: Outlined) -> Self {
        Self { outlined, tally: Arc::default() }
    }

    /// What was asked for since the last call.
    pub fn take(&self) -> Outlay {
        let Tally { weights, in_files, buffers, caches } = &*self.tally;
        let [weights, in_files, buffers, caches] =
            [weights, in_files, buffers, caches].map(|sum| sum.swap(0, Ordering::Relaxed));
        Outlay { weights, in_files, buffers, caches }
    }

    /// Weights that are kept as one.
    fn weights<'a>(&self, parts: impl Iterator<Item = &'a Weight> + Clone) {
        match self.outlined {
            Outlined::Gpu(activations) => {
                let stored = cuda::kept_as(activations, parts.clone());
                for part in parts {
                    add(&self.tally.weights, part.elements().saturating_mul(stored.bytes()));
                }
            }
            Outlined::Process => {
                for part in parts {
                    let sum = if part.is_in_a_file() { &self.tally.in_files } else { &self.tally.weights };
                    add(sum, part.size_bytes());
                }
            }
        }
    }

    /// Weights that are brought into another order, or widened, wherever they come from.
    fn copied(&self, bytes: usize) {
        add(&self.tally.weights, bytes);
    }

    fn buffers(&self, bytes: usize) -> Result<(), DeviceError> {
        add(&self.tally.buffers, bytes);
        Ok(())
    }
}

/// Dimensions that no device has room for add up to the most there can be.
fn add(sum: &AtomicU64, bytes: usize) {
    let grown = |sum: u64| Some(sum.saturating_add(bytes as u64));
    // Never refused.
    let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
}

/// Operations that compute nothing.
macro_rules! nothing {
    ($($operation:ident($($argument:ty),*);)*) => {
        $(fn $operation(&self, $(_: $argument),*) -> Result<(), DeviceError> {
            Ok(())
        })*
    };
}

impl Backend for Outline {
    type Buffer = ();
    type Matrix = ();
    type Vector = ();
    type Experts = ();
    type Cache = ();
    type Batch = ();
    type Routing = ();

    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    fn matrix(&self, parts: Vec<Weight>) -> Result<(), DeviceError> {
        self.weights(parts.iter());
        Ok(())
    }

    fn vector(&self, weight: &Weight) -> Result<(), DeviceError> {
        self.copied(weight.elements().saturating_mul(size_of::<f32>()));
        Ok(())
    }

    fn experts(&self, experts: Vec<Vec<Weight>>) -> Result<(), DeviceError> {
        self.weights(experts.iter().flatten());
        Ok(())
    }

    fn buffer(&self, elements: usize) -> Result<(), DeviceError> {
        match self.outlined {
            Outlined::Process => self.precise_buffer(elements),
            Outlined::Gpu(activations) => self.buffers(elements * activations.bytes()),
        }
    }

    fn precise_buffer(&self, elements: usize) -> Result<(), DeviceError> {
        self.buffers(elements * size_of::<f32>())
    }

    fn upload_values(&self, values: &[f32]) -> Result<(), DeviceError> {
        self.buffer(values.len())
    }

    fn cache(&self, shape: KvShape, blocks: usize) -> Result<(), DeviceError> {
        add(&self.tally.caches, blocks * self.cache_bytes_per_block(shape));
        Ok(())
    }

    fn cache_bytes_per_block(&self, shape: KvShape) -> usize {
        match self.outlined {
            Outlined::Process => Plain.cache_bytes_per_block(shape),
            Outlined::Gpu(activations) => CudaCache::bytes_per_block(activations, shape),
        }
    }

    fn batch(&self, limits: BatchLimits) -> Result<(), DeviceError> {
        match self.outlined {
            Outlined::Process => {
                self.buffers(size_of::<u32>() * (BATCH_WORDS * limits.rows + limits.logit_rows))
            }
            Outlined::Gpu(_) => self.buffers(CudaBatch::bytes(limits)),
        }
    }

    fn routing(&self, rows: usize, top_k: usize) -> Result<(), DeviceError> {
        self.buffers(size_of::<u32>() * ROUTING_WORDS * rows * top_k)
    }

    fn read<'a>(
        &self,
        (): &'a (),
        elements: usize,
        staging: &'a mut Vec<f32>,
    ) -> Result<&'a [f32], DeviceError> {
        staging.clear();
        staging.resize(elements, 0.0);
        Ok(staging)
    }

    nothing! {
        upload(&StepBatch, &mut ());
        rotary(&(), &RotarySpec, &mut ());
        embed(&(), &(), &mut ());
        rms_norm(&(), &(), f32, usize, &mut ());
        add_rms_norm(&mut (), &(), &(), f32, usize, &mut ());
        matmul(&(), &(), usize, &mut ());
        norm_rotate_store(&mut (), &(), &(), f32, &(), &(), AttentionShape, usize, &mut ());
        attention(&(), &(), AttentionShape, usize, &(), &mut ());
        swiglu(&(), usize, usize, &mut ());
        route(&(), RouteSpec, usize, &mut ());
        expert_matmul(&(), ExpertInput, &(), &(), &mut ());
        combine_experts(&(), &(), usize, &mut ());
        add_gated(&(), &(), usize, usize, &mut ());
        gather_logit_rows(&(), usize, &(), &mut ());
        copy(&(), usize, &mut ());
    }
}

impl DeviceSteps for Outline {
    type Sampling = ();
    type Readback = ();
    type Recordings = ();
    type StepShape = ();

    fn sampling(&self, limits: BatchLimits, vocabulary: usize) -> Result<(), DeviceError> {
        self.buffers(CudaSampling::bytes(limits, vocabulary))
    }

    fn readback(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn recordings(&self) {}

    fn step_shape(&self, (): &(), (): &()) -> Option<()> {
        None
    }

    fn repeat(
        &self,
        _: Option<()>,
        (): &mut (),
        mut work: impl FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        work()
    }

    fn arrived(&self, (): &mut ()) -> Result<bool, DeviceError> {
        Ok(true)
    }

    fn wait<'a>(&self, (): &'a mut ()) -> Result<(&'a [u32], Duration), DeviceError> {
        Ok((&[], Duration::ZERO))
    }

    nothing! {
        start_history(&mut (), u32, &[CountedToken]);
        upload_selections(&[Selection], &[ChainedRow], &(), &mut ());
        take_tokens(&(), &mut ());
        sample(&mut (), &mut ());
        begin(&mut (), usize);
        read_values(&(), usize, usize, &mut ());
        read_tokens(&(), &mut ());
        end(&mut ());
    }
}

impl InputRows for Outline {
    nothing! {
        write(&[f32], &mut ());
        add_embeddings(&[&()], &[u32], &[u32], f32, &mut ());
        add_bias(&mut (), &(), usize);
        bias_silu(&mut (), &(), usize);
        copy_rows(&(), &[(u32, u32)], usize, &mut ());
    }
}

impl Convolution for Outline {
    type Kernel = ();
    type Depthwise = ();
    type Snake = ();

    fn kernel(&self, weight: &Weight, bias: &Weight, _: usize) -> Result<(), DeviceError> {
        self.copied(weight.size_bytes() + bias.elements() * size_of::<f32>());
        Ok(())
    }

    fn transposed_kernel(&self, weight: &Weight, bias: &Weight, stride: usize) -> Result<(), DeviceError> {
        self.kernel(weight, bias, stride)
    }

    fn depthwise_kernel(&self, weight: &Weight, bias: &Weight) -> Result<(), DeviceError> {
        self.copied((weight.elements() + bias.elements()) * size_of::<f32>());
        Ok(())
    }

    fn snake(&self, alpha: &Weight, beta: &Weight) -> Result<(), DeviceError> {
        self.depthwise_kernel(alpha, beta)
    }

    nothing! {
        convolve(&(), &(), &Windows, &mut ());
        convolve_add(&(), &(), &Windows, &mut ());
        upsample(&(), &Windows, &(), &Windows, &mut ());
        depthwise(&(), &(), &Windows, &mut ());
        snake_beta(&(), &(), &Windows, &mut ());
        layer_norm(&(), &(), &(), f32, &Windows, &mut ());
        bias_gelu(&mut (), &(), &Windows);
        add_scaled(&(), Option<&()>, &(), &Windows, &mut ());
        window_attention(&mut (), &(), AttentionShape, usize, &Windows, &mut ());
        clamp(&mut (), usize, &Windows);
    }
}

#[cfg(test)]
mod tests {
    use cuda::Stored;
    use safetensors::tensor::{Dtype as StoredDtype, TensorView};

    use super::*;
    use crate::tensor::{Dtype, WeightStore};

    fn taken(outlined: Outlined, ask: impl Fn(&Outline)) -> Outlay {
        let outline = Outline::of(outlined);
        ask(&outline);
        let taken = outline.take();
        assert_eq!(outline.take(), Outlay::default(), "what was taken is told once");
        taken
    }

    #[test]
    fn made_weights_take_what_each_kind_of_device_keeps_them_in() {
        let store = WeightStore::dummy(0);
        let part = |shape: &[usize]| store.tensor("a.weight", shape, Dtype::Auto).unwrap();
        let ask = |outline: &Outline| {
            outline.matrix(vec![part(&[3, 5]), part(&[2, 5])]).unwrap();
            outline.experts(vec![vec![part(&[1, 4])], vec![part(&[1, 4])]]).unwrap();
            outline.vector(&part(&[7])).unwrap();
        };
        for outlined in [Outlined::Process, Outlined::Gpu(Stored::F32), Outlined::Gpu(Stored::Bf16)] {
            assert_eq!(taken(outlined, ask), Outlay { weights: 2 * (25 + 8) + 4 * 7, ..Outlay::default() });
        }
    }

    #[test]
    fn f32_weights_are_narrowed_on_a_gpu_and_stay_in_their_file_beside_a_processor() {
        let directory = tempfile::tempdir().unwrap();
        let view = TensorView::new(StoredDtype::F32, vec![2, 3], &[0; 24]).unwrap();
        let bytes = safetensors::serialize([("a", view)], None).unwrap();
        std::fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
        let store = WeightStore::open(directory.path()).unwrap();
        let weight = store.tensor("a", &[2, 3], Dtype::Auto).unwrap();
        let ask = |outline: &Outline| outline.matrix(vec![weight.clone()]).unwrap();
        assert_eq!(taken(Outlined::Process, ask), Outlay { in_files: 24, ..Outlay::default() });
        assert_eq!(taken(Outlined::Gpu(Stored::F32), ask), Outlay { weights: 24, ..Outlay::default() });
        assert_eq!(taken(Outlined::Gpu(Stored::Bf16), ask), Outlay { weights: 12, ..Outlay::default() });
    }

    #[test]
    fn weights_that_no_address_space_holds_do_not_wrap_around() {
        let store = WeightStore::dummy(0);
        let part = store.tensor("a.weight", &[1 << 40, 1 << 40], Dtype::Auto).unwrap();
        for outlined in [Outlined::Process, Outlined::Gpu(Stored::Bf16)] {
            let ask = |outline: &Outline| outline.matrix(vec![part.clone(), part.clone()]).unwrap();
            assert_eq!(taken(outlined, ask).weights, u64::MAX);
        }
    }

    #[test]
    fn activations_and_caches_follow_the_type_and_precise_buffers_do_not() {
        let shape = KvShape { layers: 3, kv_heads: 2, head_dim: 8 };
        let ask = |outline: &Outline| {
            outline.buffer(10).unwrap();
            outline.precise_buffer(10).unwrap();
            outline.cache(shape, 5).unwrap();
        };
        let block = 2 * 3 * 2 * 8 * crate::tensor::BLOCK_SIZE as u64;
        let wide = Outlay { buffers: 80, caches: 5 * 4 * block, ..Outlay::default() };
        assert_eq!(taken(Outlined::Process, ask), wide);
        assert_eq!(taken(Outlined::Gpu(Stored::F32), ask), wide);
        let narrow = Outlay { buffers: 60, caches: 5 * 2 * block, ..Outlay::default() };
        assert_eq!(taken(Outlined::Gpu(Stored::Bf16), ask), narrow);
    }
}
