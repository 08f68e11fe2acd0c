//! Gemma 3's `tokenizer.json`, which a public package holds, as Gemma 4's: the same vocabulary and merges, with reserved
//! entries named.

/// Entries by their number: Gemma 3's name and Gemma 4's.
pub(super) const RENAMED: [(u32, &str, &str); 19] = [
    (46, "<unused40>", "<|tool>"),
    (47, "<unused41>", "<tool|>"),
    (48, "<unused42>", "<|tool_call>"),
    (49, "<unused43>", "<tool_call|>"),
    (50, "<unused44>", "<|tool_response>"),
    (51, "<unused45>", "<tool_response|>"),
    (52, "<unused46>", "<|\"|>"),
    (98, "<unused92>", "<|think|>"),
    (100, "<unused94>", "<|channel>"),
    (101, "<unused95>", "<channel|>"),
    (105, "<start_of_turn>", "<|turn>"),
    (106, "<end_of_turn>", "<turn|>"),
    (255_999, "<start_of_image>", "<|image>"),
    (256_000, "<end_of_image>", "<|audio>"),
    (258_880, "<unused2978>", "<|image|>"),
    (258_881, "<unused2979>", "<|audio|>"),
    (258_882, "<unused2980>", "<image|>"),
    (258_883, "<unused2981>", "<audio|>"),
    (258_884, "<unused2982>", "<|video|>"),
];
/// Gemma 3's last added token, which has no row in Gemma 4's tables.
const DROPPED: &str = "<image_soft_token>";

/// Renames the entries in the file's own text, so that order and spacing stay; `None` if it is not that file.
pub(super) fn rename(gemma_3: &str) -> Option<String> {
    let vocab = gemma_3.find("\"vocab\"")?;
    let (mut added, mut model) = (gemma_3[..vocab].to_owned(), gemma_3[vocab..].to_owned());
    for (id, old, new) in RENAMED {
        let new = new.replace('"', "\\\"");
        let at = added.find(&format!("\"content\": \"{old}\""))?;
        let special = at + added[at..].find("\"special\": ")?;
        let end = special + added[special..].find('\n')?;
        added.replace_range(special..end, "\"special\": true");
        added = added.replacen(&format!("\"{old}\""), &format!("\"{new}\""), 1);
        let entry = format!("\"{old}\": {id},");
        let at = model.find(&entry)?;
        model.replace_range(at..at + entry.len(), &format!("\"{new}\": {id},"));
    }
    let at = added.find(&format!("\"content\": \"{DROPPED}\""))?;
    let (from, to) = (added[..at].rfind(',').and_then(|id| added[..id].rfind(','))?, at + added[at..].find('}')? + 1);
    added.replace_range(from..to, "");
    Some(added + &model)
}
