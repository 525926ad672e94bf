//! What is read of a call or a program, as data: a part of the plan.

use probe_common::FunctionSpec;

use super::value_type::Type;

/// What is read of the calls of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// For the kernel.
    pub spec: FunctionSpec,
    /// The arguments that are read, in their order.
    pub arguments: Vec<CapturedValue>,
    /// What is returned; none if returns are not wanted.
    pub returned: Option<CapturedValue>,
}

/// How a value is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapturedValue {
    /// Which argument, from 0.
    pub index: usize,
    /// Its type, with the number of its bytes.
    pub kind: Type,
}

/// Which variables of a program's environment are told: they may hold secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Environment {
    /// None.
    None,
    /// Those of these names.
    Named(Vec<Vec<u8>>),
    /// All.
    All,
}

impl Environment {
    /// Whether a variable (`NAME=VALUE`, or whatever a program was given instead) is to be told.
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
