//! TLS libraries: the files, their symbols, and where probes would go.

use std::sync::Arc;

use serde::Serialize;

use crate::elf::{DebugSearch, Object, Symbol};
use crate::error_chain;
use crate::event::Library;
use crate::plan::{Hook, ObjectHooks, Plan};
use crate::probe::tls;
use crate::rootfs::{self, ForeignFile, Mounts, access_paths};
use crate::timeout::{timed_out_message, with_timeout};

/// A file with TLS functions.
#[derive(Debug, Serialize)]
pub(super) struct ObjectFacts {
    pub(super) library: Arc<Library>,
    /// The processes that map the file.
    pub(super) pids: Vec<u32>,
    /// The GNU build id.
    pub(super) build_id: Option<String>,
    /// The separate file with the symbols that were stripped from it; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) debug_file: Option<String>,
    /// The real file: the device and inode number in the file system that stores it.
    pub(super) inode: String,
    /// The size in bytes.
    pub(super) size: u64,
    /// Whether it was unlinked after it was mapped.
    pub(super) deleted: bool,
    /// The functions in it that ctrace searches for.
    pub(super) symbols: Vec<ObjectFunction>,
    /// Where probes would go.
    pub(super) hooks: Vec<Hook>,
    /// Why the symbols could not be read.
    pub(super) why: Option<String>,
}

/// A function in a file.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ObjectFunction {
    /// The name of its symbol.
    pub(super) name: String,
    /// The virtual address, as in the file's symbols.
    pub(super) address: u64,
    /// The offset in the file.
    pub(super) offset: Option<u64>,
    /// The size of its code in bytes; 0 if the file does not say.
    pub(super) size: u64,
}

/// Reads the files of a plan again, for facts that a trace does not need.
pub(super) async fn facts(plan: &Plan) -> Vec<ObjectFacts> {
    let mut all = Vec::new();
    for object in &plan.objects {
        all.push(of(object).await);
    }
    all
}

async fn of(object: &ObjectHooks) -> ObjectFacts {
    let file = Arc::clone(&object.file);
    let pid = object.pids.first().copied().unwrap_or_default();
    let read = with_timeout(move || (access_paths::real_inode(pid, &file), read(pid, &file))).await;
    let (inode, parsed) = match read {
        Some((inode, parsed)) => (inode.to_string(), parsed),
        None => (String::new(), Err(timed_out_message())),
    };
    let (parsed, why) = match parsed {
        Ok(parsed) => (parsed, None),
        Err(why) => (Parsed::default(), Some(why)),
    };
    ObjectFacts {
        library: Arc::clone(&object.library),
        pids: object.pids.clone(),
        build_id: parsed.build_id,
        debug_file: parsed.debug_file,
        inode,
        size: object.file.size,
        deleted: object.file.is_deleted(),
        symbols: parsed.symbols,
        hooks: object.hooks.clone(),
        why,
    }
}

#[derive(Default)]
struct Parsed {
    build_id: Option<String>,
    debug_file: Option<String>,
    symbols: Vec<ObjectFunction>,
}

fn read(pid: u32, file: &ForeignFile) -> Result<Parsed, String> {
    let handle = file.file().map_err(|error| error.to_string())?;
    let object = Object::parse(handle, file.size, &tls::symbol_filter())
        .map_err(|error| error_chain::in_one_line(&error))?;
    let function = |name: &String, symbol: &Symbol| ObjectFunction {
        name: name.clone(),
        address: symbol.address.0,
        offset: object.file_offset(symbol.address).map(|offset| offset.0),
        size: symbol.size,
    };
    let all = object.symbols().iter();
    let symbols =
        all.flat_map(|(name, list)| list.iter().map(move |symbol| function(name, symbol))).collect();
    let build_id = object.build_id().map(str::to_owned);
    let object = rootfs::with_debug_file(pid, file.name(), object, &Mounts::default());
    let debug_file = match object.debug_search() {
        DebugSearch::Found(place, _) => Some(place.clone()),
        DebugSearch::NotSearched | DebugSearch::Missing(_) => None,
    };
    Ok(Parsed { build_id, debug_file, symbols })
}
