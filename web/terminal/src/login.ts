/** The login page: tells why the terminal's page came here. */

import { byId } from "./dom";
import { takeReason } from "./farewell";

byId("why").textContent = takeReason();
