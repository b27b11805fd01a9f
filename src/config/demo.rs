//! The demo checkpoint that is built into the binary.

/// The name under which the demo is served.
pub(super) const NAME: &str = "omni-demo";

/// Lays embedded bytes out on a cache line, so that tensors can be used where they are.
///
/// Tensors in the file start at multiples of 8 bytes; with an aligned file the loader may view them as numbers.
#[repr(C, align(64))]
struct CacheLineAligned<B: ?Sized>(B);

/// The weights, used in place.
static WEIGHTS: &CacheLineAligned<[u8]> =
    &CacheLineAligned(*include_bytes!("../../assets/demo/model.safetensors"));

/// Every file of the demo but its weights, by name.
static FILES: [(&str, &[u8]); 8] = [
    ("config.json", include_bytes!("../../assets/demo/config.json")),
    ("generation_config.json", include_bytes!("../../assets/demo/generation_config.json")),
    ("preprocessor_config.json", include_bytes!("../../assets/demo/preprocessor_config.json")),
    ("chat_template.json", include_bytes!("../../assets/demo/chat_template.json")),
    ("tokenizer.json", include_bytes!("../../assets/demo/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../assets/demo/tokenizer_config.json")),
    ("vocab.json", include_bytes!("../../assets/demo/vocab.json")),
    ("merges.txt", include_bytes!("../../assets/demo/merges.txt")),
];

/// The demo's weights.
pub(super) fn weights() -> &'static [u8] {
    &WEIGHTS.0
}

/// A file of the demo, other than its weights, by its name in the directory layout.
pub(super) fn file(name: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_begin_on_a_cache_line() {
        assert_eq!(weights().as_ptr().align_offset(64), 0);
    }
}
