//! The emulated device as the CUDA backend's driver: what the backend launches runs on the CPU.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::bf16;
use omni_actors::tensor::DeviceError;
use omni_actors::tensor::cuda::{Address, ColumnMajor, Driver, Launch, LibraryProduct, ProductShape, Stored};

use crate::device::{Device, Guarded};

/// An emulated device with its memory.
pub(crate) struct Emulated {
    device: &'static Device,
    /// See [`Driver::multiprocessors`]; decides how contexts are split.
    multiprocessors: usize,
    /// What is allocated, by address.
    memory: Mutex<BTreeMap<Address, Piece>>,
    /// The names of the kernels that ran, and how often.
    pub(crate) launched: Mutex<BTreeMap<&'static str, usize>>,
    /// What stands in for a library of matrix products.
    library: Library,
    /// The products that the library was asked for.
    pub(crate) asked: Mutex<Vec<ProductShape>>,
    /// Launches so far: every other one runs its threads in the opposite order.
    launches: AtomicUsize,
}

/// A library of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    /// There is none, or it has no way for anything.
    Refuses,
    /// It multiplies, column-major as libraries do.
    Multiplies,
}

/// Memory that any thread may hold.
struct Piece(Guarded);

// SAFETY: the mapping belongs to the value alone and is bound to no thread.
unsafe impl Send for Piece {}

impl fmt::Debug for Emulated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Emulated").finish_non_exhaustive()
    }
}

impl Emulated {
    pub(crate) fn new(device: &'static Device, multiprocessors: usize, library: Library) -> Self {
        Self {
            device,
            multiprocessors,
            memory: Mutex::default(),
            launched: Mutex::default(),
            library,
            asked: Mutex::default(),
            launches: AtomicUsize::new(0),
        }
    }

    /// Bytes that are allocated.
    pub(crate) fn allocated(&self) -> usize {
        self.memory.lock().unwrap().values().map(|piece| piece.0.length).sum()
    }

    /// Calls `work` with the bytes at an address, which must lie in one piece of memory.
    fn with_bytes<R>(&self, address: Address, bytes: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut memory = self.memory.lock().unwrap();
        let (start, piece) = memory.range_mut(..=address).next_back().unwrap();
        let first = (address - start) as usize;
        work(&mut piece.0.bytes()[first..first + bytes])
    }
}

/// The values of a column-major matrix, column after column without gaps.
fn read_columns(matrix: &ColumnMajor, bytes: &[u8]) -> Vec<f32> {
    let values: Vec<f32> = match matrix.stored {
        Stored::F32 => bytemuck::pod_collect_to_vec(bytes),
        Stored::Bf16 => {
            bytemuck::pod_collect_to_vec::<_, bf16>(bytes).into_iter().map(bf16::to_f32).collect()
        }
    };
    values.chunks(matrix.leading).flat_map(|column| column[..matrix.rows].to_vec()).collect()
}

/// Bytes from the first element of a matrix to its last.
fn extent(matrix: &ColumnMajor) -> usize {
    ((matrix.columns - 1) * matrix.leading + matrix.rows) * matrix.stored.bytes()
}

impl Driver for Emulated {
    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        assert!(bytes > 0);
        let piece = Guarded::new(&vec![0; bytes]);
        let address = piece.start as Address;
        self.memory.lock().unwrap().insert(address, Piece(piece));
        Ok(address)
    }

    fn release(&self, address: Address) {
        let piece = self.memory.lock().unwrap().remove(&address).unwrap();
        assert!(piece.0.intact(), "something wrote outside {} bytes", piece.0.length);
    }

    fn upload(&self, bytes: &[u8], to: Address) -> Result<(), DeviceError> {
        if !bytes.is_empty() {
            self.with_bytes(to, bytes.len(), |memory| memory.copy_from_slice(bytes));
        }
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), DeviceError> {
        let content = self.with_bytes(from, bytes, |memory| memory.to_vec());
        self.with_bytes(to, bytes, |memory| memory.copy_from_slice(&content));
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.with_bytes(from, bytes.len(), |memory| bytes.copy_from_slice(memory));
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        *self.launched.lock().unwrap().entry(launch.kernel).or_default() += 1;
        let reversed = self.launches.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let grid = launch.grid.map(|extent| extent as u32);
        self.device
            .run_words(launch.kernel, grid, launch.block as u32, launch.shared, &launch.words, reversed)
            .map_err(|cause| DeviceError::Gpu { what: "run a kernel", cause })
    }

    fn multiply(&self, product: &LibraryProduct) -> Result<bool, DeviceError> {
        let ProductShape { a, b, out } = product.shape;
        self.asked.lock().unwrap().push(product.shape);
        if self.library == Library::Refuses {
            return Ok(false);
        }
        assert_eq!((a.rows, a.columns, b.columns), (b.rows, out.rows, out.columns));
        let left = self.with_bytes(product.a, extent(&a), |bytes| read_columns(&a, bytes));
        let right = self.with_bytes(product.b, extent(&b), |bytes| read_columns(&b, bytes));
        self.with_bytes(product.out, extent(&out), |bytes| {
            for (column, right) in right.chunks(b.rows).enumerate() {
                for (row, left) in left.chunks(a.rows).enumerate() {
                    let sum: f32 = left.iter().zip(right).map(|(left, right)| left * right).sum();
                    let place = (row + column * out.leading) * out.stored.bytes();
                    match out.stored {
                        Stored::F32 => bytes[place..][..4].copy_from_slice(&sum.to_le_bytes()),
                        Stored::Bf16 => {
                            bytes[place..][..2].copy_from_slice(&bf16::from_f32(sum).to_le_bytes());
                        }
                    }
                }
            }
        });
        Ok(true)
    }
}
