//! The emulated device: kernels by name, arrays between guard pages, launches.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_uint, c_void};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::OnceLock;
use std::{env, fs, ptr, slice};

use bytemuck::Pod;
use libloading::Library;
use omni_actors::tensor::cuda::kernels::{FAMILIES, HEADERS};

/// `emulation_launch` of emulation.cpp.
type Launch = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    *const c_uint,
    usize,
    *mut *mut c_void,
    usize,
    bool,
) -> *const c_char;

/// The compiled kernels.
pub(crate) struct Device {
    /// Runs one.
    launch: Launch,
    /// Their names.
    pub(crate) kernels: Vec<String>,
}

/// The device, or None after saying that there is no compiler for it.
pub(crate) fn device() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    DEVICE.get_or_init(build).as_ref()
}

fn build() -> Option<Device> {
    if Command::new("g++").arg("--version").output().is_err() {
        println!("skipped: the kernels run on the CPU only where there is g++");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("tests/cuda_emulation");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = target.join("cuda_emulation.so");
    // What was built from the same text is used again.
    let mut text = FAMILIES.iter().map(|family| family.source).collect::<String>();
    text.extend(HEADERS.iter().map(|(_, text)| *text));
    text += &fs::read_to_string(own.join("emulation.h")).unwrap();
    text += &fs::read_to_string(own.join("emulation.cpp")).unwrap();
    let stamp = target.join("cuda_emulation.sources");
    if !library.exists() || fs::read_to_string(&stamp).ok().as_ref() != Some(&text) {
        let fresh = target.join(format!("cuda_emulation.{}.so", std::process::id()));
        let built = Command::new("g++")
            .args(["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-DOMNI_EMULATION"])
            .args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-clobbered"])
            .args(["-fsanitize=alignment,bounds", "-fsanitize-undefined-trap-on-error"])
            .arg("-I")
            .arg(root.join("kernels"))
            .arg("-I")
            .arg(&own)
            .arg(own.join("emulation.cpp"))
            .arg("-o")
            .arg(&fresh)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        fs::rename(&fresh, &library).unwrap();
        fs::write(&stamp, &text).unwrap();
    }
    // SAFETY: the library was built above from our own sources; its initialisers only set up its own state, and the
    // types are those of the definitions in emulation.cpp. It is never unloaded.
    unsafe {
        let library = Box::leak(Box::new(Library::new(library).unwrap()));
        let names = library.get::<unsafe extern "C" fn() -> *const c_char>(b"emulation_kernels").unwrap();
        let kernels = CStr::from_ptr(names()).to_str().unwrap().split(' ').map(str::to_owned).collect();
        Some(Device { launch: *library.get::<Launch>(b"emulation_launch").unwrap(), kernels })
    }
}

/// Memory whose end lies at a page that nobody may touch, its start aligned to 16 bytes as on a GPU.
pub(crate) struct Guarded {
    /// The mapping, its last page without access.
    mapping: *mut u8,
    /// Bytes of the mapping.
    mapped: usize,
    /// Where the bytes begin.
    pub(crate) start: *mut u8,
    /// How many there are.
    pub(crate) length: usize,
}

const PAGE: usize = 65536;

impl Guarded {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let room = bytes.len().div_ceil(16) * 16;
        let mapped = room.div_ceil(PAGE) * PAGE + PAGE;
        // SAFETY: a new private mapping, whose last page is then closed; the copy lies inside what stays open.
        unsafe {
            let mapping = libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(mapping, libc::MAP_FAILED);
            let mapping = mapping.cast::<u8>();
            assert_eq!(libc::mprotect(mapping.add(mapped - PAGE).cast(), PAGE, libc::PROT_NONE), 0);
            let start = mapping.add(mapped - PAGE - room);
            // What lies around the elements is not zero, so that reading it shows, and is checked afterwards.
            ptr::write_bytes(mapping, CANARY, mapped - PAGE);
            ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
            Self { mapping, mapped, start, length: bytes.len() }
        }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the range is open and belongs to self alone; kernels run only while no slice of it is held.
        unsafe { slice::from_raw_parts_mut(self.start, self.length) }
    }

    /// Whether what lies around the elements is as it was.
    pub(crate) fn intact(&self) -> bool {
        // SAFETY: everything before the last page is open.
        let open = unsafe { slice::from_raw_parts(self.mapping, self.mapped - PAGE) };
        let start = self.start as usize - self.mapping as usize;
        open[..start].iter().chain(&open[start + self.length..]).all(|byte| *byte == CANARY)
    }
}

const CANARY: u8 = 0xff;

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.mapping.cast(), self.mapped) };
    }
}

/// An array in the memory of the device. Clones are the same array.
#[derive(Clone)]
pub(crate) struct Array(Rc<RefCell<Guarded>>);

impl Array {
    /// An array that holds `values`.
    pub(crate) fn new<T: Pod>(values: &[T]) -> Self {
        Self(Rc::new(RefCell::new(Guarded::new(bytemuck::cast_slice(values)))))
    }

    /// What the array holds.
    pub(crate) fn read<T: Pod>(&self) -> Vec<T> {
        bytemuck::pod_collect_to_vec(self.0.borrow_mut().bytes())
    }
}

/// A parameter of a kernel.
pub(crate) enum Parameter {
    /// A pointer to the elements.
    Array(Array),
    /// `int`.
    Int(i32),
    /// `float`.
    Float(f32),
}

impl From<&Array> for Parameter {
    fn from(array: &Array) -> Self {
        Self::Array(array.clone())
    }
}

impl From<usize> for Parameter {
    fn from(value: usize) -> Self {
        Self::Int(value.try_into().unwrap())
    }
}

impl From<f32> for Parameter {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

/// The parameters of a launch, as a kernel declares them.
#[macro_export]
macro_rules! parameters {
    ($($value:expr),* $(,)?) => { [$($crate::device::Parameter::from($value)),*] };
}

impl Device {
    /// Runs a kernel over `grid` blocks of `block` threads with `shared` bytes of dynamic shared memory, first in
    /// ascending and then in descending order of threads and blocks, which must give the same bits.
    pub(crate) fn launch(
        &self,
        name: &str,
        grid: [u32; 3],
        block: u32,
        shared: usize,
        parameters: &[Parameter],
    ) {
        self.try_launch(name, grid, block, shared, parameters).unwrap();
    }

    /// As [`launch`](Self::launch); what goes wrong is returned.
    pub(crate) fn try_launch(
        &self,
        name: &str,
        grid: [u32; 3],
        block: u32,
        shared: usize,
        parameters: &[Parameter],
    ) -> Result<(), String> {
        let contents = || -> Vec<Vec<u8>> {
            let arrays = parameters.iter().filter_map(|parameter| match parameter {
                Parameter::Array(array) => Some(array.0.borrow_mut().bytes().to_vec()),
                _ => None,
            });
            arrays.collect()
        };
        let before = contents();
        self.run(name, grid, block, shared, parameters, false)?;
        let ascending = contents();
        let arrays = parameters.iter().filter_map(|parameter| match parameter {
            Parameter::Array(array) => Some(array),
            _ => None,
        });
        for (array, bytes) in arrays.zip(&before) {
            array.0.borrow_mut().bytes().copy_from_slice(bytes);
        }
        self.run(name, grid, block, shared, parameters, true)?;
        if contents() != ascending {
            return Err(format!("{name}: the result depends on the order in which threads run"));
        }
        Ok(())
    }

    fn run(
        &self,
        name: &str,
        grid: [u32; 3],
        block: u32,
        shared: usize,
        parameters: &[Parameter],
        reversed: bool,
    ) -> Result<(), String> {
        let words: Vec<u64> = parameters
            .iter()
            .map(|parameter| match parameter {
                Parameter::Array(array) => array.0.borrow().start as u64,
                Parameter::Int(value) => u64::from(value.cast_unsigned()),
                Parameter::Float(value) => u64::from(value.to_bits()),
            })
            .collect();
        let outcome = self.run_words(name, grid, block, shared, &words, reversed);
        for (index, parameter) in parameters.iter().enumerate() {
            if let Parameter::Array(array) = parameter
                && !array.0.borrow().intact()
            {
                return Err(format!("{name}: wrote outside its parameter {index}"));
            }
        }
        outcome
    }

    /// Runs a kernel once, each parameter at the low end of a word.
    pub(crate) fn run_words(
        &self,
        name: &str,
        grid: [u32; 3],
        block: u32,
        shared: usize,
        words: &[u64],
        reversed: bool,
    ) -> Result<(), String> {
        let mut words = words.to_vec();
        let mut pointers: Vec<*mut c_void> =
            words.iter_mut().map(|word| ptr::from_mut(word).cast()).collect();
        let kernel = CString::new(name).unwrap();
        // SAFETY: the pointers lead to as many parameters as is said; the launch checks their number and reports
        // accesses outside the arrays. The message lasts until the thread's next launch.
        let failure = unsafe {
            let failure = (self.launch)(
                kernel.as_ptr(),
                grid.as_ptr(),
                [block, 1, 1].as_ptr(),
                shared,
                pointers.as_mut_ptr(),
                pointers.len(),
                reversed,
            );
            (!failure.is_null()).then(|| CStr::from_ptr(failure).to_string_lossy().into_owned())
        };
        failure.map_or(Ok(()), Err)
    }
}
