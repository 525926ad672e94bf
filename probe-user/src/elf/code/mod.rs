//! Decodes instructions and chooses where a uprobe may be placed.
//!
//! Where the code of the function can be decoded, a place in the middle of an instruction is refused.

pub mod decode;
pub(super) mod exits;
pub(super) mod function_body;
mod jump_table;
pub(super) mod post_prologue;
pub(super) mod probe_site;
