/** The terminal page's entry: which side panels there are, in the order of their buttons. */

import { start } from "./app";
import { panel as files } from "./files/panel";
import type { Panel } from "./panels";
import { panel as ports } from "./ports/panel";
import { panel as people } from "./people/panel";
import { panel as recordings } from "./recordings/panel";

const PANELS: readonly Panel[] = [people, files, ports, recordings];

start(PANELS);
