//! The process's compute threads.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::tensor::DeviceError;

/// The pool, once someone has needed it.
static POOL: Mutex<Option<Arc<ThreadPool>>> = Mutex::new(None);

/// The one pool of the process. The first caller decides how many threads it has; `None` means one for every
/// processor that the process may use.
pub(super) fn shared(threads: Option<usize>) -> Result<Arc<ThreadPool>, DeviceError> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = pool.as_ref() {
        return Ok(pool.clone());
    }
    let built = ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .thread_name(|index| format!("compute-{index}"))
        .build()
        .map_err(|error| DeviceError::Threads(error.to_string()))?;
    Ok(pool.insert(Arc::new(built)).clone())
}
