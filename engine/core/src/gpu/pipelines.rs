//! Compiled shaders, each combination of entry point and constants once.

use std::collections::HashMap;

use super::device::Gpu;
use super::shader::{Access, Constants, Shader};

/// An entry point and the bits of its constants.
type Key = (&'static Shader, Vec<(&'static str, u64)>);

/// A compiled entry point.
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// All that an executor uses.
#[derive(Default)]
pub(super) struct Pipelines {
    list: Vec<Pipeline>,
    index: HashMap<Key, usize>,
    modules: HashMap<&'static [&'static str], wgpu::ShaderModule>,
}

impl Pipelines {
    /// A pipeline by the number that [`Self::compile`] gave.
    pub(super) fn get(&self, number: usize) -> &Pipeline {
        &self.list[number]
    }

    /// The number of the pipeline of `shader` with `constants`, compiled if it is new.
    pub(super) fn compile(&mut self, gpu: &Gpu, shader: &'static Shader, constants: &Constants) -> usize {
        #[cfg(test)]
        super::shader_tests::assert_listed(shader, constants);
        let key = (shader, constants.iter().map(|(name, v)| (*name, v.to_bits())).collect());
        if let Some(&number) = self.index.get(&key) {
            return number;
        }
        let module = self.modules.entry(shader.files).or_insert_with(|| {
            gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: shader.files.last().copied(),
                source: wgpu::ShaderSource::Wgsl(shader.source().into()),
            })
        });
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let uniforms = [0, 1].map(|binding| entry(binding, wgpu::BufferBindingType::Uniform));
        let storage = shader.bindings.iter().map(|(binding, access)| {
            entry(*binding, wgpu::BufferBindingType::Storage { read_only: *access == Access::Read })
        });
        let entries: Vec<_> = uniforms.into_iter().chain(storage).collect();
        let name = shader.name();
        let layout = gpu
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&name), entries: &entries });
        let pipeline_layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&name),
            layout: Some(&pipeline_layout),
            module,
            entry_point: Some(shader.entry),
            // Every shader writes its workgroup memory before it reads it.
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        self.list.push(Pipeline { pipeline, layout });
        self.index.insert(key, self.list.len() - 1);
        self.list.len() - 1
    }
}
