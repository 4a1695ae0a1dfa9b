//! Stories over real sockets, starting from YAML. One module a story; `harness` is what they stand on.

mod harness;

mod harness_stands;
