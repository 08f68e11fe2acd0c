// keys[position + t, :] = k[t, :], the same for values. Needs lib/step.wgsl. One invocation for each four values.

struct Params {
    quads: u32, // of a token: K · d / 4
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;                // [T, K · d]
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;                // [T, K · d]
@group(0) @binding(4) var<storage, read_write> keys: array<vec4<f32>>;       // [positions, K · d]
@group(0) @binding(5) var<storage, read_write> values: array<vec4<f32>>;     // [positions, K · d]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= now.tokens * params.quads {
        return;
    }
    let to = now.position * params.quads + i;
    keys[to] = k[i];
    values[to] = v[i];
}
