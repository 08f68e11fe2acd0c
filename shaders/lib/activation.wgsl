// Activations of a feed-forward gate, by number.

const SILU = 0u;
const GELU_TANH = 1u;

fn activation(kind: u32, v: f32) -> f32 {
    if kind == GELU_TANH {
        // Beyond 10 tanh is 1 in f32, and some drivers compute it from exponentials that overflow.
        let inner = 0.7978846 * (v + 0.044715 * v * v * v);
        return 0.5 * v * (1.0 + tanh(clamp(inner, -10.0, 10.0)));
    }
    return v / (1.0 + exp(min(-v, 80.0)));
}
