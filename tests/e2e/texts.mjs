// Pages with facts and words of their own, so that an answer about one can be told from an answer about another.

/** @param {string} title @param {string[]} paragraphs @param {string} [more] */
export const html = (title, paragraphs, more = '') => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${title}</title><style>body { font: 18px/1.6 serif; max-width: 42em; margin: 2em auto }</style></head>
<body><main><h1>${title}</h1>
${paragraphs.map((text, i) => `<p id="p${i + 1}">${text}</p>`).join('\n')}
</main>${more}</body></html>`

export const FERRY = html('The Quillon ferry returns', [
  'The ferry between Quillon and the island of Vessery will run again from the first of May, the harbour office said on Tuesday. It had been out of service for eleven months after a storm tore away the landing stage.',
  'The new landing stage cost 2.4 million euros and stands on steel piles that reach nine metres into the sea bed. It was built by a firm from the mainland, which finished the work three weeks before the agreed date.',
  'Two boats will cross six times a day in summer and four times a day in winter. A crossing takes twenty-five minutes. Islanders pay half the fare, and children under ten travel free.',
  'During the closure a smaller boat carried post, medicine and pupils, but no cars. The island\'s only baker, Oda Merrin, said she had thrown away flour for the first time in thirty years because a delivery came too late.',
  'The harbour office expects about ninety thousand passengers in the first year, a tenth more than before the storm. A second landing stage on the northern shore is planned, but its money has not been found yet.'
])

export const CLOCK = html('Tolbrand\'s clock is repaired', [
  'The tower clock of Tolbrand has been running again since Saturday, after a pause of fourteen years. A watchmaker from the town, Ivo Sandrel, repaired it in his free time and asked only for the price of the parts.',
  'The clock was made in 1887 and weighs six hundred kilograms. Its pendulum is as long as a tall man and swings once every two seconds. The hands on the southern face are made of copper, those on the other faces of painted iron.',
  'Sandrel found that a single tooth of the largest wheel had broken off. He cast a new wheel from the old drawings, which the town archive had kept in a box marked "sundry".',
  'From now on a group of six volunteers will wind the clock every Thursday. The town council has promised them a key, a lamp and a yearly dinner.'
])

/** Long enough that its summary is still being written when something happens to it. */
export const LONG = html('A year at the weather station', Array.from({ length: 24 }, (_, i) =>
  `In month ${i + 1} of the record the station at Harrow Fell measured ${40 + 7 * i} millimetres of rain, and its keeper wrote that the wind came from the ${['west', 'north', 'south', 'east'][i % 4]} on most days. ` +
  `The barometer was read three times a day, and the lowest reading of that month was ${985 - i} hectopascals. Visitors came on ${2 + i % 5} of the days, most of them walkers who had lost the path.`))
