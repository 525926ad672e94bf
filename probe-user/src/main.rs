//! ctrace
fn main(){}
