//! What is captured of a call or an executed program, as data: a part of the plan.

use probe_common::FunctionSpec;

use super::value_type::Type;

/// What is captured of the calls of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The same for the BPF program.
    pub spec: FunctionSpec,
    /// The captured arguments, in order.
    pub arguments: Vec<CapturedValue>,
    /// The returned value. None if returns are not traced.
    pub returned: Option<CapturedValue>,
}

/// How to show a captured value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapturedValue {
    /// The index of the argument, from 0.
    pub index: usize,
    /// Its type, including the size.
    pub kind: Type,
}

/// Which environment variables of a program are reported. They may contain secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Environment {
    /// No variables.
    None,
    /// The variables with these names.
    Named(Vec<Vec<u8>>),
    /// All variables.
    All,
}

impl Environment {
    /// Whether a variable is reported. It is usually `NAME=VALUE`, but a program may be given anything.
    pub fn takes(&self, variable: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => {
                let name = variable.split(|byte| *byte == b'=').next().unwrap_or_default();
                names.iter().any(|wanted| wanted == name)
            }
        }
    }
}
