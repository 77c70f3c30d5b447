"""Words for the free slots of the command templates, in every language that is evaluated.

The package leaves rooms, devices and shopping items to its users, so no list of them exists in
it. These short lists were written for this project in the base form, the form in which the
assistant matches names; an inflected language would often bend them in running text.
"""

from __future__ import annotations

ENGLISH = {
    "area": "kitchen|living room|bedroom|bathroom|garage|garden",
    "floor": "basement|attic",
    "device": "lamp|television|fan|radio|heater",
    "door": "front door|back door",
    "item": "milk|bread|eggs|coffee|rice",
}

# One line a language: area; floor; device; door; item, in the order of ENGLISH.
_LINES = """
af kombuis|sitkamer|slaapkamer|badkamer|motorhuis|tuin; kelder|solder; lamp|televisie|waaier|radio|verwarmer; voordeur|agterdeur; melk|brood|eiers|koffie|rys
ar مطبخ|غرفة المعيشة|غرفة النوم|حمام|مرآب|حديقة; قبو|علية; مصباح|تلفاز|مروحة|راديو|مدفأة; الباب الأمامي|الباب الخلفي; حليب|خبز|بيض|قهوة|أرز
bg кухня|хол|спалня|баня|гараж|градина; мазе|таван; лампа|телевизор|вентилатор|радио|печка; входна врата|задна врата; мляко|хляб|яйца|кафе|ориз
bn রান্নাঘর|বসার ঘর|শোবার ঘর|বাথরুম|গ্যারেজ|বাগান; বেসমেন্ট|চিলেকোঠা; বাতি|টেলিভিশন|পাখা|রেডিও|হিটার; সামনের দরজা|পেছনের দরজা; দুধ|রুটি|ডিম|কফি|চাল
de Küche|Wohnzimmer|Schlafzimmer|Badezimmer|Garage|Garten; Keller|Dachboden; Lampe|Fernseher|Ventilator|Radio|Heizung; Haustür|Hintertür; Milch|Brot|Eier|Kaffee|Reis
el κουζίνα|σαλόνι|υπνοδωμάτιο|μπάνιο|γκαράζ|κήπος; υπόγειο|σοφίτα; λάμπα|τηλεόραση|ανεμιστήρας|ραδιόφωνο|θερμάστρα; μπροστινή πόρτα|πίσω πόρτα; γάλα|ψωμί|αυγά|καφές|ρύζι
es cocina|sala de estar|dormitorio|baño|garaje|jardín; sótano|ático; lámpara|televisión|ventilador|radio|calefactor; puerta principal|puerta trasera; leche|pan|huevos|café|arroz
eu sukaldea|egongela|logela|bainugela|garajea|lorategia; sotoa|ganbara; lanpara|telebista|haizagailua|irratia|berogailua; sarrerako atea|atzeko atea; esnea|ogia|arrautzak|kafea|arroza
fa آشپزخانه|اتاق نشیمن|اتاق خواب|حمام|گاراژ|باغ; زیرزمین|زیرشیروانی; لامپ|تلویزیون|پنکه|رادیو|بخاری; در جلو|در پشتی; شیر|نان|تخم مرغ|قهوه|برنج
fi keittiö|olohuone|makuuhuone|kylpyhuone|autotalli|puutarha; kellari|ullakko; lamppu|televisio|tuuletin|radio|lämmitin; etuovi|takaovi; maito|leipä|munat|kahvi|riisi
fr cuisine|salon|chambre|salle de bain|garage|jardin; sous-sol|grenier; lampe|télévision|ventilateur|radio|chauffage; porte d'entrée|porte arrière; lait|pain|œufs|café|riz
he מטבח|סלון|חדר שינה|אמבטיה|מוסך|גינה; מרתף|עליית גג; מנורה|טלוויזיה|מאוורר|רדיו|תנור; דלת הכניסה|דלת אחורית; חלב|לחם|ביצים|קפה|אורז
hi रसोई|बैठक|शयनकक्ष|स्नानघर|गैराज|बगीचा; तहखाना|अटारी; लैंप|टेलीविज़न|पंखा|रेडियो|हीटर; सामने का दरवाज़ा|पीछे का दरवाज़ा; दूध|रोटी|अंडे|कॉफ़ी|चावल
hu konyha|nappali|hálószoba|fürdőszoba|garázs|kert; pince|padlás; lámpa|televízió|ventilátor|rádió|fűtőtest; bejárati ajtó|hátsó ajtó; tej|kenyér|tojás|kávé|rizs
it cucina|soggiorno|camera da letto|bagno|garage|giardino; cantina|soffitta; lampada|televisione|ventilatore|radio|stufa; porta d'ingresso|porta sul retro; latte|pane|uova|caffè|riso
ko 부엌|거실|침실|욕실|차고|정원; 지하실|다락방; 램프|텔레비전|선풍기|라디오|히터; 현관문|뒷문; 우유|빵|달걀|커피|쌀
lt virtuvė|svetainė|miegamasis|vonios kambarys|garažas|sodas; rūsys|palėpė; lempa|televizorius|ventiliatorius|radijas|šildytuvas; priekinės durys|galinės durys; pienas|duona|kiaušiniai|kava|ryžiai
ml അടുക്കള|സ്വീകരണമുറി|കിടപ്പുമുറി|കുളിമുറി|ഗാരേജ്|പൂന്തോട്ടം; നിലവറ|തട്ടിൻപുറം; വിളക്ക്|ടെലിവിഷൻ|ഫാൻ|റേഡിയോ|ഹീറ്റർ; മുൻവാതിൽ|പിൻവാതിൽ; പാൽ|റൊട്ടി|മുട്ട|കാപ്പി|അരി
nl keuken|woonkamer|slaapkamer|badkamer|garage|tuin; kelder|zolder; lamp|televisie|ventilator|radio|kachel; voordeur|achterdeur; melk|brood|eieren|koffie|rijst
pl kuchnia|salon|sypialnia|łazienka|garaż|ogród; piwnica|strych; lampa|telewizor|wentylator|radio|grzejnik; drzwi wejściowe|tylne drzwi; mleko|chleb|jajka|kawa|ryż
pt cozinha|sala de estar|quarto|casa de banho|garagem|jardim; cave|sótão; candeeiro|televisão|ventoinha|rádio|aquecedor; porta da frente|porta das traseiras; leite|pão|ovos|café|arroz
ro bucătărie|sufragerie|dormitor|baie|garaj|grădină; subsol|mansardă; lampă|televizor|ventilator|radio|radiator; ușa din față|ușa din spate; lapte|pâine|ouă|cafea|orez
ru кухня|гостиная|спальня|ванная|гараж|сад; подвал|чердак; лампа|телевизор|вентилятор|радио|обогреватель; входная дверь|задняя дверь; молоко|хлеб|яйца|кофе|рис
th ห้องครัว|ห้องนั่งเล่น|ห้องนอน|ห้องน้ำ|โรงรถ|สวน; ชั้นใต้ดิน|ห้องใต้หลังคา; โคมไฟ|โทรทัศน์|พัดลม|วิทยุ|เครื่องทำความร้อน; ประตูหน้า|ประตูหลัง; นม|ขนมปัง|ไข่|กาแฟ|ข้าว
uk кухня|вітальня|спальня|ванна|гараж|сад; підвал|горище; лампа|телевізор|вентилятор|радіо|обігрівач; вхідні двері|задні двері; молоко|хліб|яйця|кава|рис
vi nhà bếp|phòng khách|phòng ngủ|phòng tắm|nhà để xe|khu vườn; tầng hầm|gác mái; đèn bàn|ti vi|quạt|đài|máy sưởi; cửa trước|cửa sau; sữa|bánh mì|trứng|cà phê|gạo
zh 厨房|客厅|卧室|浴室|车库|花园; 地下室|阁楼; 台灯|电视|风扇|收音机|取暖器; 前门|后门; 牛奶|面包|鸡蛋|咖啡|大米
"""


def _parse() -> dict[str, dict[str, list[str]]]:
    table = {"en": {kind: words.split("|") for kind, words in ENGLISH.items()}}
    for line in _LINES.strip().splitlines():
        language, _, rest = line.partition(" ")
        lists = [part.strip().split("|") for part in rest.split(";")]
        table[language] = dict(zip(ENGLISH, lists, strict=True))
    return table


FILLERS = _parse()
