// Where Sotto's entries stand in Chromium's context menus, counted from the bottom, and the letters that choose them.

/** A menu's rows below Sotto's entry differ with what was clicked. */
export const onSelection = (/** @type {string[]} */ ...letters) => ({ up: 2, letters })
export const onPage = (/** @type {string[]} */ ...letters) => ({ up: 3, letters })
export const onField = (/** @type {string[]} */ ...letters) => ({ up: 2, letters })
