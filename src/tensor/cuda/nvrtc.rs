//! NVIDIA's run-time compiler, loaded where it is found. It turns CUDA C++ into PTX and needs no GPU and no toolkit.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::{env, fmt, io, ptr};

use libloading::Library;
use thiserror::Error;

/// The environment variable that names the library's file.
pub const PATH_VARIABLE: &str = "OMNI_NVRTC";

/// The versions that write PTX which the drivers that we support can read: 13.0 writes PTX 9.0.
const VERSION: (i32, i32) = (13, 0);

/// What can go wrong while PTX is generated.
#[derive(Debug, Error)]
pub enum NvrtcError {
    /// The library is not where it was looked for.
    #[error("libnvrtc cannot be loaded; {PATH_VARIABLE} may name its file: {0}")]
    Missing(String),
    /// The library has another version than the one that the PTX is kept with.
    #[error("libnvrtc is version {}.{} where {}.{} is needed", .found.0, .found.1, VERSION.0, VERSION.1)]
    Version {
        /// What the library says.
        found: (i32, i32),
    },
    /// A function of the library failed.
    #[error("{call} of libnvrtc failed with status {status}")]
    Call {
        /// The function.
        call: &'static str,
        /// What it returned.
        status: i32,
    },
    /// The source does not compile.
    #[error("{file} does not compile: {log}")]
    Compile {
        /// The source.
        file: String,
        /// What the compiler said.
        log: String,
    },
    /// A name or a source holds a zero byte.
    #[error("{0} holds a zero byte")]
    ZeroByte(String),
    /// A generated file cannot be written.
    #[error("{path} cannot be written: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl NvrtcError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) => "nvrtc_missing",
            Self::Version { .. } => "nvrtc_version",
            Self::Call { .. } => "nvrtc_call",
            Self::Compile { .. } => "kernel_compilation",
            Self::ZeroByte(_) => "zero_byte",
            Self::Write { .. } => "ptx_write",
        }
    }
}

/// The file with what the compiler knows of each architecture. The library asks the system for it by this name, which
/// does not look beside the library; once loaded it is found by any way.
const BUILTINS: &str = "libnvrtc-builtins.so.13.0";

/// A program that is being compiled, as the library hands it out.
type Program = *mut c_void;
/// What every function of the library returns; 0 is success.
type Status = c_int;
/// `nvrtcVersion`.
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status;
/// `nvrtcCreateProgram`.
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> Status;
/// `nvrtcCompileProgram`.
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
/// `nvrtcGetPTXSize` and `nvrtcGetProgramLogSize`.
type GetSize = unsafe extern "C" fn(Program, *mut usize) -> Status;
/// `nvrtcGetPTX` and `nvrtcGetProgramLog`.
type GetText = unsafe extern "C" fn(Program, *mut c_char) -> Status;
/// `nvrtcDestroyProgram`.
type Destroy = unsafe extern "C" fn(*mut Program) -> Status;

/// The functions of the library that are used.
pub struct Nvrtc {
    /// See [`Create`].
    create: Create,
    /// See [`Compile`].
    compile: Compile,
    /// See [`GetSize`].
    ptx_size: GetSize,
    /// See [`GetText`].
    ptx: GetText,
    /// See [`GetSize`].
    log_size: GetSize,
    /// See [`GetText`].
    log: GetText,
    /// See [`Destroy`].
    destroy: Destroy,
    /// Keeps the functions above loaded.
    _library: Library,
    /// [`BUILTINS`], where it lies beside the library.
    _builtins: Option<Library>,
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Nvrtc").finish_non_exhaustive()
    }
}

impl Nvrtc {
    /// Loads the library that `OMNI_NVRTC` names, or else `libnvrtc.so.13` where the system finds it.
    pub fn load() -> Result<Self, NvrtcError> {
        let path = env::var_os(PATH_VARIABLE).map_or_else(|| PathBuf::from("libnvrtc.so.13"), PathBuf::from);
        let missing = |error: libloading::Error| NvrtcError::Missing(error.to_string());
        // SAFETY: the initialisers of NVIDIA's libraries have no demands on the process.
        let builtins = unsafe { Library::new(path.with_file_name(BUILTINS)) }.ok();
        // SAFETY: as above.
        let library = unsafe { Library::new(&path) }.map_err(missing)?;
        // SAFETY: the types are those that nvrtc.h declares for these names, the same since version 7.
        let (nvrtc, version) = unsafe {
            let version = *library.get::<Version>(b"nvrtcVersion").map_err(missing)?;
            let nvrtc = Self {
                create: *library.get(b"nvrtcCreateProgram").map_err(missing)?,
                compile: *library.get(b"nvrtcCompileProgram").map_err(missing)?,
                ptx_size: *library.get(b"nvrtcGetPTXSize").map_err(missing)?,
                ptx: *library.get(b"nvrtcGetPTX").map_err(missing)?,
                log_size: *library.get(b"nvrtcGetProgramLogSize").map_err(missing)?,
                log: *library.get(b"nvrtcGetProgramLog").map_err(missing)?,
                destroy: *library.get(b"nvrtcDestroyProgram").map_err(missing)?,
                _library: library,
                _builtins: builtins,
            };
            (nvrtc, version)
        };
        let mut found = (0, 0);
        // SAFETY: both pointers are to integers that outlive the call.
        check("nvrtcVersion", unsafe { version(&mut found.0, &mut found.1) })?;
        if found == VERSION { Ok(nvrtc) } else { Err(NvrtcError::Version { found }) }
    }

    /// Compiles `source`, which may include `headers` (name, text) by name, to PTX.
    pub fn compile(
        &self,
        source: &str,
        file: &str,
        headers: &[(&str, &str)],
        options: &[&str],
    ) -> Result<String, NvrtcError> {
        let source = c_string(source)?;
        let name = c_string(file)?;
        let names = headers.iter().map(|(name, _)| c_string(name)).collect::<Result<Vec<_>, _>>()?;
        let texts = headers.iter().map(|(_, text)| c_string(text)).collect::<Result<Vec<_>, _>>()?;
        let options = options.iter().map(|option| c_string(option)).collect::<Result<Vec<_>, _>>()?;
        let (names, texts, options) = (pointers(&names), pointers(&texts), pointers(&options));

        let mut program = ptr::null_mut();
        // SAFETY: the strings end in zeros and live to the end of this function; the lists hold as many as is said.
        let status = unsafe {
            (self.create)(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                names.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        check("nvrtcCreateProgram", status)?;
        let compiling = Compiling { nvrtc: self, program };
        // SAFETY: the program was made above and is not destroyed yet; `options` holds as many strings as is said.
        let status = unsafe { (self.compile)(program, options.len() as c_int, options.as_ptr()) };
        if status != 0 {
            let log = compiling.text("nvrtcGetProgramLog", self.log_size, self.log)?;
            return Err(NvrtcError::Compile { file: file.to_owned(), log });
        }
        compiling.text("nvrtcGetPTX", self.ptx_size, self.ptx)
    }
}

/// A program that is destroyed when it goes out of scope.
struct Compiling<'a> {
    /// Whose it is.
    nvrtc: &'a Nvrtc,
    /// The library's handle.
    program: Program,
}

impl Compiling<'_> {
    /// A text that the library holds about the program.
    fn text(&self, call: &'static str, size: GetSize, get: GetText) -> Result<String, NvrtcError> {
        let mut bytes = 0;
        // SAFETY: the program lives as long as self, and `bytes` outlives the call.
        check(call, unsafe { size(self.program, &mut bytes) })?;
        let mut text = vec![0_u8; bytes.max(1)];
        // SAFETY: as above, and the library writes `bytes` bytes at most, the closing zero included.
        check(call, unsafe { get(self.program, text.as_mut_ptr().cast()) })?;
        let text = CStr::from_bytes_until_nul(&text).map(CStr::to_string_lossy).unwrap_or_default();
        Ok(text.into_owned())
    }
}

impl Drop for Compiling<'_> {
    fn drop(&mut self) {
        // SAFETY: the program was created by this library and is used by nothing else any more. A failure would
        // only leak its memory.
        unsafe { (self.nvrtc.destroy)(&mut self.program) };
    }
}

fn check(call: &'static str, status: Status) -> Result<(), NvrtcError> {
    if status == 0 { Ok(()) } else { Err(NvrtcError::Call { call, status }) }
}

fn c_string(text: &str) -> Result<CString, NvrtcError> {
    CString::new(text).map_err(|_| NvrtcError::ZeroByte(text.chars().take(40).collect()))
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}
