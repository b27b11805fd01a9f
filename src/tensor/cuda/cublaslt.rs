//! Matrix products by NVIDIA's cuBLASLt, where it is found. Nothing of it is linked, and nothing needs it.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaStream, result as driver};

use super::library::{ColumnMajor, LibraryProduct, ProductShape};
use super::stored::Stored;

/// The oldest version that is used, as the library gives it: 12.0.
const NEEDED_VERSION: usize = 120_000;
/// Bytes that products may use in between. NVIDIA recommends as many for Hopper.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;
/// Shapes whose plans are kept: a few hundred lengths of prompts times the products of a layer.
const MAX_PLANS: usize = 4096;

/// The library on a device.
#[derive(Debug)]
pub(super) struct CublasLt {
    /// The library's own state.
    handle: sys::cublasLtHandle_t,
    /// Its version, as it gives it.
    version: usize,
    /// Device memory of [`WORKSPACE_BYTES`]. Products follow one another on one stream, so one piece is enough.
    workspace: u64,
    /// What is known of each shape; None where the library cannot do it.
    plans: Mutex<HashMap<ProductShape, Option<Plan>>>,
    /// Whether the log has been told that the library failed.
    told: AtomicBool,
    /// Where products are queued.
    stream: Arc<CudaStream>,
}

// SAFETY: the library may be called from any thread; its pointers are used under the lock of `plans`, and freed when
// nobody else holds the value.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

/// How the products of one shape are carried out.
#[derive(Debug)]
struct Plan {
    description: Description,
    a: Layout,
    b: Layout,
    out: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl CublasLt {
    /// Finds the library; None where it is not there, is too old, or does not start, which the log is told.
    pub(super) fn find(stream: &Arc<CudaStream>) -> Option<Self> {
        // SAFETY: loading NVIDIA's library has no demands on the process. It is asked for before anything else, because
        // a call into a library that is not there panics.
        if !unsafe { sys::is_culib_present() } {
            tracing::debug!("cuBLASLt was not found; all matrix products are those of our own kernels");
            return None;
        }
        // SAFETY: the library is there, and the call has no preconditions.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < NEEDED_VERSION {
            tracing::warn!("cuBLASLt {} is too old to be used", version_name(version));
            return None;
        }
        let started = Self::start(stream, version);
        started.map_err(|cause| tracing::warn!("cuBLASLt cannot be used: {cause}")).ok()
    }

    fn start(stream: &Arc<CudaStream>, version: usize) -> Result<Self, String> {
        stream.context().bind_to_thread().map_err(|error| format!("{:?}", error.0))?;
        // SAFETY: this thread has the device's context.
        let workspace =
            unsafe { driver::malloc_sync(WORKSPACE_BYTES) }.map_err(|error| format!("{:?}", error.0))?;
        let handle = result::create_handle().map_err(|error| {
            // SAFETY: allocated above, and nobody knows of it.
            let _ = unsafe { driver::free_sync(workspace) };
            format!("{:?}", error.0)
        })?;
        Ok(Self {
            handle,
            version,
            workspace,
            plans: Mutex::default(),
            told: AtomicBool::new(false),
            stream: stream.clone(),
        })
    }

    /// Name and version.
    pub(super) fn describe(&self) -> String {
        format!("cuBLASLt {}", version_name(self.version))
    }

    /// Queues a product. False if the library cannot do it, and nothing was queued; the log is told so once. The
    /// calling thread has the device's context.
    pub(super) fn multiply(&self, product: &LibraryProduct) -> bool {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= MAX_PLANS {
            plans.clear();
        }
        let plan = plans.entry(product.shape).or_insert_with(|| {
            Plan::new(self.handle, product.shape)
                .map_err(|error| self.tell("has no way for", product, error))
                .ok()
        });
        let Some(known) = plan else { return false };
        match self.queue(known, product) {
            Ok(()) => true,
            Err(error) => {
                self.tell("failed at", product, error);
                *plan = None;
                false
            }
        }
    }

    fn queue(&self, plan: &Plan, product: &LibraryProduct) -> Result<(), CublasError> {
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: the plan's handles live as long as it does. The addresses are the device's, and the memory behind them
        // holds what the layouts say, which `matmul` in backend.rs has checked; a wrong one is a fault on the device,
        // never in the memory of the process. The two factors are read before the call returns.
        unsafe {
            result::matmul(
                self.handle,
                plan.description.0,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                product.a as *const c_void,
                plan.a.0,
                product.b as *const c_void,
                plan.b.0,
                product.out as *const c_void,
                plan.out.0,
                product.out as *mut c_void,
                plan.out.0,
                &plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.cu_stream().cast(),
            )
        }
    }

    fn tell(&self, what: &str, product: &LibraryProduct, error: CublasError) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let ProductShape { a, b, out } = product.shape;
            tracing::warn!(
                "cuBLASLt {what} a product of {} rows, [{}, {}], {:?} to {:?} ({:?}); our own kernels carry out what it \
                 cannot",
                out.columns,
                a.columns,
                a.rows,
                b.stored,
                out.stored,
                error.0
            );
        }
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        self.plans.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        if self.stream.context().bind_to_thread().is_ok() {
            // SAFETY: both were made in `start` and are used by nobody else; freeing waits for what is queued. Failures
            // mean that the device is lost, and both with it.
            unsafe {
                let _ = driver::free_sync(self.workspace);
                let _ = result::destroy_handle(self.handle);
            }
        }
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, shape: ProductShape) -> Result<Self, CublasError> {
        let description = Description::transposing_a()?;
        let (a, b, out) = (Layout::new(shape.a)?, Layout::new(shape.b)?, Layout::new(shape.out)?);
        let preference = Preference::new()?;
        // SAFETY: all handles were made above and are alive.
        let heuristic = unsafe {
            result::get_matmul_algo_heuristic(handle, description.0, a.0, b.0, out.0, out.0, preference.0)
        }?;
        Ok(Self { description, a, b, out, algorithm: heuristic.algo })
    }
}

/// What is computed: sums in f32, never in TF32, of products with a transposed first matrix.
#[derive(Debug)]
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn transposing_a() -> Result<Self, CublasError> {
        let own = Self(result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType_t::CUDA_R_32F,
        )?);
        // CUBLAS_OP_T of cublas_api.h, an enumeration as wide as an `int`.
        let transposed = 1_i32;
        // SAFETY: the attribute is of this type, and is copied.
        unsafe {
            result::set_matmul_desc_attribute(
                own.0,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                ptr::from_ref(&transposed).cast(),
                size_of_val(&transposed),
            )
        }?;
        Ok(own)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by `transposing_a`, destroyed once. There is nothing to do about a failure.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// Where a matrix lies.
#[derive(Debug)]
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(matrix: ColumnMajor) -> Result<Self, CublasError> {
        let element = match matrix.stored {
            Stored::F32 => sys::cudaDataType_t::CUDA_R_32F,
            Stored::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        };
        let ColumnMajor { rows, columns, leading, .. } = matrix;
        result::create_matrix_layout(element, rows as u64, columns as u64, leading as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. There is nothing to do about a failure.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What an algorithm may do.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let own = Self(result::create_matmul_pref()?);
        own.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE_BYTES as u64))?;
        // Where the inner width is split, the parts are added in f32 and in order, not in the type of the result.
        let reductions = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        own.set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions)?;
        Ok(own)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<(), CublasError> {
        // SAFETY: the value is of the attribute's width, and is copied.
        unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, ptr::from_ref(value).cast(), size_of::<T>())
        }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. There is nothing to do about a failure.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// A version as people write it: 130101 is 13.1.1.
fn version_name(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_with_dots() {
        assert_eq!(version_name(120_805), "12.8.5");
        assert_eq!(version_name(130_101), "13.1.1");
    }
}
