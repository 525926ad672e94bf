//! Instructions: decoding, and the places where a uprobe may sit.
//!
//! Never gives a place in the middle of an instruction, or one that another jump may land behind.

pub mod decode;
pub(super) mod function_body;
pub(super) mod post_prologue;
pub(super) mod probe_site;
