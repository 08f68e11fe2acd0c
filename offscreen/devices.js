// Graphics devices as the engine expects them.

/**
 * wgpu knows two kinds of errors and ends the whole engine at any other. A driver that fails at a shader raises an internal one, and
 * would again after each new start. Such a device is of no use: it is destroyed before wgpu hears of its error, and the engine goes on
 * as after any lost device, in the end on the CPU.
 */
export function destroyAtInternalErrors () {
  const { GPUAdapter, GPUInternalError } = /** @type {any} */ (globalThis)
  if (!GPUAdapter) return
  const { requestDevice } = GPUAdapter.prototype
  GPUAdapter.prototype.requestDevice = async function (/** @type {unknown[]} */ ...wish) {
    const device = await requestDevice.apply(this, wish)
    // The first listener, since nobody else has seen the device.
    device.addEventListener('uncapturederror', (/** @type {any} */ event) => {
      if (!(event.error instanceof GPUInternalError)) return
      event.stopImmediatePropagation()
      console.error('Sotto: the graphics device failed:', event.error.message)
      device.destroy()
    })
    return device
  }
}
