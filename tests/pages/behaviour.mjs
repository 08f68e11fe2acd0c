export const BEHAVIOURS = {}
