// What differs from step to step. The CPU writes it before each submit.
struct Step {
    position: u32, // of the step's first token
    tokens: u32,   // T
}
@group(0) @binding(1) var<uniform> now: Step;

// Rows of a dispatch's buffers: its own number, or the step's when that is 0.
fn token_count(own: u32) -> u32 {
    return select(own, now.tokens, own == 0u);
}

// The step's token that is a dispatch's first: the last one when the dispatch has a row of its own, else 0.
fn first_token(own: u32) -> u32 {
    return select(now.tokens - own, 0u, own == 0u);
}
