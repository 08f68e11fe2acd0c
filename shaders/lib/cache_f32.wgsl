// Keys and values as the caches hold them: f32. lib/cache_f16.wgsl has the same names.

alias CachePair = vec2<f32>;
alias CacheQuad = vec4<f32>;

fn to_cache(pair: vec2<f32>) -> CachePair {
    return pair;
}

fn from_cache(quad: CacheQuad) -> vec4<f32> {
    return quad;
}
