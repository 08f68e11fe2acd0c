/**
 * What the classic scripts of this folder put on `globalThis.__sotto`. A page's isolated world and the popup load the same
 * files; types only, not shipped.
 */
import type * as engine from '../offscreen/pkg/engine.js'

declare global {
  // Classic scripts cannot import: the messages' types under names of their own (`Event` is the DOM's).
  type EngineState = engine.EngineState
  type EngineEvent = engine.Event
  type Failure = engine.Failure
  type FromEngine = engine.FromEngine
  type OfHost = engine.OfHost
  type Passage = engine.Passage
  type Policy = engine.Policy
  type Source = engine.Source
  type Stats = engine.Stats
  type Task = engine.Task
  type ToEngine = engine.ToEngine

  /** What a card is asked to do. */
  interface CardOrder {
    task: Task
    /** Where the text comes from. */
    from: 'page' | 'selection' | 'selectionOrPage'
    /** What Chrome says is selected, for a selection that cannot be read (in a frame of another site). */
    selectionText: string
    title: string
    url: string
    incognito: boolean
    tabId: number
    documentId: string
  }

  interface AnswerOptions {
    /** Shows a passage in the page, or answers false; without it passages are plain quotes. */
    onPassage?: (passage: Passage) => boolean | Promise<boolean>
    /** Without it there is no Stop among the actions. */
    onStop?: () => void
    onRetry: () => void
    /** Puts the written text in place of the selection. */
    onReplace?: (text: string) => void
    /** Says a short sentence to a screen reader. */
    announce: (text: string) => void
  }

  /** One request's updates, drawn. */
  interface AnswerView {
    /** Carries `data-state`: running, done, stopped or failed. */
    readonly element: HTMLElement
    /** The line and bar shown while it runs; may be moved to where they stay in sight. */
    readonly progress: HTMLElement
    readonly running: boolean
    readonly failure: Failure | null
    apply(event: EngineEvent): void
    applyState(engine: EngineState): void
  }

  /** A port to the engine that mends itself. */
  interface EnginePort {
    send(message: ToEngine): void
    close(): void
  }

  interface EnginePortOptions {
    onMessage: (message: FromEngine) => void
    /** Sent whenever a port opens, for a page that is to be kept up to date; the port is then opened again when it breaks. */
    greeting?: ToEngine[]
  }

  type PageText = Omit<Source, 'incognito'>

  type NodeAttributes = Record<string, string | number | boolean | null | undefined | ((event: any) => void)>

  var __sotto: {
    h: <K extends keyof HTMLElementTagNameMap>(tag: K, attributes?: NodeAttributes, ...children: (Node | string | null)[]) => HTMLElementTagNameMap[K]
    icon: (name: string) => SVGElement
    mark: () => SVGElement
    markdown: (text: string) => HTMLElement[]
    number: (value: number) => string
    look: () => CSSStyleSheet
    AnswerView: new (options: AnswerOptions) => AnswerView
    EnginePort: new (options: EnginePortOptions) => EnginePort
    openCard: (order: CardOrder) => { shown: boolean, reason?: 'nothingToRead' | 'pdf' }
    readPage: (maxWords?: number) => PageText
    /** Null when nothing is selected. */
    readSelection: (maxWords?: number) => PageText | null
    /** False when the page no longer shows it. */
    showPassage: (passage: Passage) => boolean
    clearPassage: () => void
    replaceText: (text: string, original?: string) => { ok: boolean, message: string }
    forgetOnLeave: (conversation: string) => void
  }
}
