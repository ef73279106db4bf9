// What the page's scripts find around them: Gradio's configuration, the parameters of a component's script, and what they
// give each other through `window`.

/** An element that a query finds: which kind it is follows from the template, so that all their properties are there. */
interface PageElement extends HTMLElement {
  rows: number;
  alt: string;
  checked: boolean;
  content: DocumentFragment;
  controls: boolean;
  currentTime: number;
  disabled: boolean;
  duration: number;
  files: FileList;
  height: number;
  href: string;
  max: any;
  muted: boolean;
  name: string;
  open: boolean;
  options: HTMLOptionsCollection;
  placeholder: string;
  position: number;
  rel: string;
  selectionEnd: number;
  selectionStart: number;
  src: string;
  type: string;
  value: any;
  width: number;
  onclick: any;
  readonly children: HTMLCollectionOf<PageElement>;
  close(): void;
  getContext(kind: '2d'): CanvasRenderingContext2D;
  pause(): void;
  play(): Promise<void>;
  select(): void;
  setSelectionRange(start: number, end: number): void;
  showModal(): void;
}
type PageEvent<E> = Omit<E, 'target' | 'currentTarget'> & { target: PageElement; currentTarget: PageElement };

interface ParentNode {
  querySelector(selectors: string): PageElement;
  querySelectorAll(selectors: string): NodeListOf<PageElement>;
}
interface Document {
  getElementById(id: string): PageElement;
  readonly activeElement: PageElement;
  addEventListener<K extends keyof DocumentEventMap>(type: K, listener: (event: PageEvent<DocumentEventMap[K]>) => any, options?: any): void;
  addEventListener(type: `wan-ui-${string}`, listener: (event: CustomEvent) => any, options?: any): void;
}
interface HTMLElement {
  addEventListener<K extends keyof HTMLElementEventMap>(type: K, listener: (event: PageEvent<HTMLElementEventMap[K]>) => any, options?: any): void;
}
interface CSSStyleDeclaration {
  setProperty(property: string, value: string | number | null): void;
}
interface Window {
  addEventListener<K extends keyof WindowEventMap>(type: K, listener: (event: PageEvent<WindowEventMap[K]>) => any, options?: any): void;
}
interface Element {
  closest(selectors: string): PageElement;
}

interface HTMLElement {
  readonly children: HTMLCollectionOf<PageElement>;
}

/** The parameters of a component's script, as Gradio gives them to `js_on_load`. */
declare const element: PageElement;
declare const props: Record<string, any>;
declare const trigger: (event: string, data?: Record<string, any>) => void;
declare const watch: (name: string, listener: () => void) => void;
declare const upload: (file: File) => Promise<{ path: string }>;

interface Model {
  id: string;
  label: string;
  sizes: [number, number][];
  negative: string;
  speed: { id: string; label: string; steps: number; sets: string }[];
}
interface WanUi {
  dom: {
    input(name: string): PageElement;
    value(name: string): string;
    fill(name: string, text: string | number): void;
    insert(name: string, text: string): void;
    announce(control: PageElement): void;
    giveImage(name: string, file: File): boolean;
    takeToasts(show: (text: string, isError: boolean) => void): void;
  };
  events: {
    on(name: 'jobs' | 'progress' | 'pictures' | 'queue' | 'server', listener: (data: any) => void): void;
    readonly reads: boolean;
  };
  afterOpening(values: any[]): any[] | Promise<any[]>;
  answered(): void;
  code: { open(request: object): void };
  filled(form: string): Promise<void>;
  filling(form: string): void;
  isFilling(form: string): boolean;
  afterFilling(form: string, then: () => void): void;
  firstFrame: { fromAddress(address: string): Promise<boolean> };
  /** A press that waits for what is on its way into the form, see held_press.js. */
  held: { waitFor(wait: () => string | false | 0): void; look(): void; drop(): void };
  heard(well: boolean): void;
  openingEnded(): void;
  lookAnswered(): void;
  judging(player: any): any;
  share(entryId: string): void;
  toast(text: string, isError?: boolean): void;
}
interface Window {
  gradio_config: { texts: Record<string, string | { one: string; other: string }>; messages?: string };
  wanUi: WanUi;
  wanUiMessages?: Record<string, string>;
  wanUiModel?: Model;
  wanUiOpeningEnded(): void;
  wanUiScripts?: Record<string, (...parameters: any[]) => void>;
}
